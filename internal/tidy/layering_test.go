package tidy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/hikae/hikae"

// row says what one package may import besides the standard library. Our own packages are written from the module's
// root ("./pipe"), others by their module's path, which allows the packages below it too.
type row struct {
	pkg    string   // "./a/..." covers what has no row of its own
	allow  []string // "./a/..." is a and all below it
	tests  []string // what only its tests may import, besides testOnly
	reason string
}

// Names that many rows share.
const (
	compress = "github.com/klauspost/compress"
	reed     = "github.com/klauspost/reedsolomon"
	xxhash   = "github.com/cespare/xxhash"
	blake3   = "github.com/zeebo/blake3"
	age      = "filippo.io/age"
	crypto   = "golang.org/x/crypto"
	sys      = "golang.org/x/sys"
	syncs    = "golang.org/x/sync"
	times    = "golang.org/x/time"
	anything = "..."
)

// testOnly is what every test may import.
var testOnly = []string{
	"github.com/stretchr/testify", "pgregory.net/rapid", "go.uber.org/goleak", "github.com/rogpeppe/go-internal",
	"./pipe/...", "./repo/store/...", "./internal/...", blake3, compress, sys,
}

// layers is the import table, from the bottom up. Imports point up this list only.
var layers = []row{
	{pkg: "./pipe", allow: []string{compress, xxhash, blake3, syncs, times},
		reason: "the data path: whoever embeds one disk reader gets this and nothing that stores or talks"},
	{pkg: "./internal/freespace", allow: []string{sys}, reason: "how much room a folder has, by each system's own call"},
	{pkg: "./pipe/diskfile", allow: []string{"./pipe", sys},
		reason: "raw files; holes and locks need system calls"},
	{pkg: "./pipe/qcow2", allow: []string{"./pipe", "./pipe/diskfile", compress, sys},
		reason: "a backing file or an external data file may be raw; clusters are zlib or zstd"},
	{pkg: "./vmware/vmdk", allow: []string{"./pipe", "./pipe/diskfile", compress, sys},
		reason: "VMware's disk files, for whoever needs them alone; exports are deflated"},
	{pkg: "./vmware/nfc/internal/vector", reason: "bytes that a client and a server are both tested against, made by neither"},
	{pkg: "./vmware/nfc/nfctest", allow: []string{"./pipe"}, tests: []string{"./vmware/nfc/internal/vector"},
		reason: "the service that the client is tested against: it shares no code with it, so that one mistake is not made twice"},
	{pkg: "./vmware/nfc", allow: []string{"./pipe"}, tests: []string{"./vmware/nfc/internal/vector", "./vmware/nfc/nfctest"},
		reason: "a client of a host's disk service, given a ticket: it knows no hypervisor's API, and who gets tickets is above it"},
	{pkg: "./hyperv/vhdx", allow: []string{"./pipe", "./pipe/diskfile", sys},
		reason: "a disk format like qcow2; its files appear as raw ones do, and it knows no hypervisor"},
	{pkg: "./pipe/pipetest", allow: []string{"./pipe", blake3, "github.com/stretchr/testify"},
		reason: "suites for implementers; they return errors, so that they also check a live host"},
	{pkg: "./pipe/nbd", allow: []string{"./pipe"}, reason: "a client and a server for images"},
	{pkg: "./pipe/exclude/fsys", allow: []string{"./pipe"}, reason: "what readers of guest file systems have in common"},
	{pkg: "./pipe/exclude/fsys/fsystest", allow: []string{"./pipe", "./pipe/exclude/fsys", blake3, sys},
		reason: "ages and compares file systems; it mounts them by system calls"},
	{pkg: "./pipe/exclude/ntfs", allow: []string{"./pipe", "./pipe/exclude/fsys"}, reason: "a reader: bytes of a volume in, files and free space out"},
	{pkg: "./pipe/exclude/ext", allow: []string{"./pipe", "./pipe/exclude/fsys", syncs}, reason: "a reader: bytes of a volume in, files and free space out"},
	{pkg: "./pipe/exclude/xfs", allow: []string{"./pipe", "./pipe/exclude/fsys"}, reason: "a reader: bytes of a volume in, files and free space out"},
	{pkg: "./pipe/exclude/layout", allow: []string{"./pipe"}, reason: "partitions and logical volumes, of use without any file system"},
	{pkg: "./pipe/exclude/swap", allow: []string{"./pipe", "./pipe/exclude/fsys"}, reason: "a reader of one page"},
	{pkg: "./pipe/exclude/fat", allow: []string{"./pipe", "./pipe/exclude/fsys"}, reason: "a reader: bytes of a volume in, files and free space out"},
	{pkg: "./pipe/exclude/fstab", reason: "a table in a guest: text in, lines out"},
	{pkg: "./pipe/exclude/files", allow: []string{"./pipe", "./pipe/exclude/fstab", "./pipe/exclude/fsys", "./pipe/exclude/layout"},
		tests: []string{"./pipe/exclude/ext"}, reason: "single files for embedders; the readers are handed in"},
	{pkg: "./pipe/exclude", allow: []string{"./pipe", "./pipe/exclude/..."},
		reason: "knows file systems, not where disks come from"},
	{pkg: "./pipe/mover/wire", allow: []string{"./pipe"},
		reason: "frames and messages: bytes in, bytes out, whoever carries them"},
	{pkg: "./pipe/mover/wire/byhand", tests: []string{"./pipe", "./pipe/mover", "./pipe/mover/trust", "./pipe/mover/wire",
		"./repo", "./repo/store/memstore", blake3},
		reason: "only tests: the other side, written from PROTOCOL.md, talks to a real mover; it codes and decodes nothing by wire"},
	{pkg: "./pipe/mover/trust", allow: []string{sys},
		reason: "who is who; read alone by whoever judges it. Locks on files need system calls"},
	{pkg: "./pipe/mover/session", allow: []string{"./pipe/mover/wire", "./pipe/mover/trust", sys, syncs},
		reason: "connections and calls; it knows messages and peers, and no disk"},
	{pkg: "./pipe/mover/bandwidth", allow: []string{times}, reason: "limits for any connection"},
	{pkg: "./pipe/mover", allow: []string{"./pipe", "./pipe/mover/wire", "./pipe/mover/trust", "./pipe/mover/session",
		"./pipe/mover/bandwidth", blake3, syncs, times, sys}, tests: []string{"./repo", "./job", "./job/diskvm"},
		reason: "serves any pipe.Backend; job wires it to a repository"},

	{pkg: "./repo/retention", reason: "what stays and what goes is decided by functions that can touch nothing"},
	{pkg: "./repo/store", reason: "the interface that somebody else implements: nothing comes with it"},
	{pkg: "./repo/store/storetest", allow: []string{"./repo/store"}, reason: "the suite for implementers"},
	{pkg: "./repo/store/memstore", allow: []string{"./repo/store"}, reason: "a store for tests and for scratch"},
	{pkg: "./repo/store/dirstore/vfs", allow: []string{sys},
		reason: "the few file calls that dirstore makes, so that a test can fail and crash them"},
	{pkg: "./repo/store/dirstore/lockd/lockline", allow: []string{"./repo/store", sys}, reason: "a line to a helper: who asks gets no server with it"},
	{pkg: "./repo/store/dirstore/lockd", allow: []string{"./repo/store", "./repo/store/dirstore/lockd/lockline", sys},
		tests:  []string{"./repo/store/dirstore"},
		reason: "runs as root: nothing comes with it that need not"},
	{pkg: "./repo/store/dirstore", allow: []string{"./repo/store", "./repo/store/dirstore/vfs", "./repo/store/dirstore/lockd/lockline", sys, syncs},
		tests:  []string{"github.com/hanwen/go-fuse"},
		reason: "durability needs system calls"},
	{pkg: "./repo/store/dirstore/vfs/vfstest", allow: []string{"./repo/store/dirstore/vfs", "github.com/stretchr/testify"},
		reason: "a file system that forgets what was not synced, and a suite that only our own tests run"},
	{pkg: "./repo/store/s3store/s3test", allow: []string{"github.com/minio/minio-go"}, reason: "starts a real server for tests, and makes buckets in it"},
	{pkg: "./repo/store/s3store", allow: []string{"./repo/store", "github.com/minio/minio-go", syncs}, tests: []string{"./repo"},
		reason: "the one package that S3's client library comes with"},
	{pkg: "./internal/smbwire", allow: []string{"github.com/cloudsoda/go-smb2"}, reason: "what is below an SMB client, for the store on a share and the way into a guest"},
	{pkg: "./repo/store/smbstore", allow: []string{"./repo/store", "./repo/store/dirstore", "./repo/store/dirstore/vfs", "./internal/smbwire", "github.com/cloudsoda/go-smb2"},
		tests:  []string{"./repo"},
		reason: "the one package that the SMB client comes with: dirstore's rules over another file system"},
	{pkg: "./repo/store/stripe", allow: []string{"./repo/store", reed, xxhash, syncs, times}, tests: []string{"./pipe", "./repo", "./guest/smbchannel/smbtest"},
		reason: "k+m over other stores; it knows no kind of them"},
	{pkg: "./repo/store/moverstore", allow: []string{"./repo/store", "./pipe", "./pipe/mover", "./pipe/mover/wire", "./pipe/mover/trust", "./pipe/mover/session", syncs},
		tests:  []string{"./repo", "./repo/guard"},
		reason: "a blind target is a store over the wire"},
	{pkg: "./repo/internal/...", allow: []string{"./pipe", "./repo/store", "./repo/internal/...", reed, age, blake3, xxhash,
		compress, crypto, sys, syncs}, reason: "parts of repo; the compiler lets nobody else in"},
	{pkg: "./repo", allow: []string{"./pipe", "./repo/store", "./repo/retention", "./repo/internal/...", reed, age, blake3, xxhash, crypto, sys, syncs},
		reason: "blocks are named by keyed BLAKE3, keys wrapped by age and argon2; no store comes with it"},
	{pkg: "./repo/guard", allow: []string{"./repo", "./repo/store", "./repo/internal/..."},
		reason: "what a blind target lets a writer do: it checks what needs no key, and holds none"},

	{pkg: ".", allow: []string{"./pipe", sys},
		reason: "the nouns: a driver implements them and needs no repository; the file journal is durable by system calls"},
	{pkg: "./kvm/qmp", allow: []string{sys}, reason: "QEMU's machine protocol, for whoever needs it alone"},
	{pkg: "./kvm/qga", allow: []string{sys}, reason: "QEMU's guest agent, for whoever needs it alone"},
	{pkg: "./kvm/libvirt", reason: "libvirt's protocol, for whoever needs it alone; its own libraries are no dependency"},
	{pkg: "./kvm", allow: []string{".", "./pipe", "./pipe/nbd", "./pipe/diskfile", "./pipe/qcow2", "./kvm/qmp", "./kvm/qga", "./kvm/libvirt", "./internal/freespace", sys, syncs},
		tests:  []string{"./job", "./job/diskvm", "./repo"},
		reason: "a driver: the nouns, images, and its own wires; never the repository or a session"},
	{pkg: "./kvm/replica", allow: []string{".", "./pipe", "./pipe/diskfile", "./kvm", "./kvm/qmp", xxhash},
		tests:  []string{"./job", "./pipe/qcow2", "./kvm/kvmtest", "./kvm/qga", "./pipe/pipetest", "./repo", "./repo/store/memstore", sys},
		reason: "points as images that QEMU opens: a backend for sessions, which it does not know"},
	{pkg: "./kvm/kvmtest", allow: []string{"./kvm/qmp", "./kvm/qga", sys}, reason: "a real guest under a real QEMU, for tests"},
	{pkg: "./kvm/kvmtest/fxguest", allow: []string{sys}, reason: "runs as init in that guest, where nothing else is"},

	{pkg: "./guest/agent/wire", reason: "frames and messages: bytes in, bytes out, whoever carries them"},
	{pkg: "./guest/agent", allow: []string{"./guest/agent/wire", sys},
		reason: "verbs over a stream; its parts are handed in, so that a build has only those of its system"},
	{pkg: "./guest/agent/freeze", allow: []string{"./guest/agent", "./guest/agent/wire", sys}, reason: "file systems freeze by system calls"},
	{pkg: "./guest/index/list", reason: "a stream: bytes in, bytes out; the component has it, so it brings nothing"},
	{pkg: "./guest/index", allow: []string{"./guest/index/list", compress}, tests: []string{"./pipe/exclude/..."},
		reason: "a file format over io.ReaderAt: whoever searches one needs no guest and no repository"},
	{pkg: "./guest/agent/files", allow: []string{"./guest/agent/freeze", "./guest/agent/wire", "./guest/index/list", sys},
		reason: "a part of the component: it lists files; an index is made of the list on the other side, where a compressor may be"},
	{pkg: "./guest/agent/script", allow: []string{"./guest/agent", "./guest/agent/wire"}, reason: "programs of the guest's administrator"},
	{pkg: "./guest/agent/winsvc", allow: []string{sys}, reason: "a pipe, a service and an end without leftovers, by Windows' own calls; it knows nothing of what is served"},
	{pkg: "./guest/agent/vss", allow: []string{"./guest/agent", "./guest/agent/wire", sys}, reason: "a part of the component; COM by system calls"},
	{pkg: "./guest/agent/apps/record", reason: "names and JSON: whoever restores from records and logs needs no guest"},
	{pkg: "./guest/agent/apps", allow: []string{"./guest/agent", "./guest/agent/wire", "./guest/agent/apps/record", sys},
		tests:  []string{"./guest/agent/apps/appstest"},
		reason: "a part of the component: servers are spoken to through their own clients, so no driver comes with it"},
	{pkg: "./guest/agent/apps/appstest", allow: []string{"github.com/stretchr/testify", sys},
		reason: "real database servers on disks that freeze, for tests"},
	{pkg: "./guest/logs", allow: []string{"./pipe", "./guest/agent/wire", "./guest/agent/apps/record"},
		tests:  []string{"./guest/agent/apps", "./guest/agent/apps/appstest", "./repo"},
		reason: "logs from any component into any backend; it brings no channel and no store"},
	{pkg: "./guest/install/pack", reason: "a signed file: whoever makes packages needs nothing else"},
	{pkg: "./guest/install/service", allow: []string{"./guest/agent", "./guest/agent/wire", "./guest/install/pack", "./pipe/mover/trust", sys},
		tests:  []string{"./guest"},
		reason: "stands in the guest for good: frames, packages and keys, and nothing of what a backup server has"},
	{pkg: "./guest", allow: []string{".", "./guest/agent/wire", "./guest/index", "./guest/index/list"}, tests: []string{"./guest/agent", "./guest/guesttest", "./guest/sshchannel", "./kvm"},
		reason: "components in a guest, over any channel"},
	{pkg: "./guest/install", allow: []string{".", "./guest", "./guest/agent/wire", "./guest/install/pack", "./guest/install/service", "./pipe/mover/trust"},
		tests:  []string{"./guest/agent/...", "./guest/guesttest", "./guest/sshchannel"},
		reason: "the backup server's side of persistent components"},
	{pkg: "./guest/agent/hikae-agent", allow: []string{"./guest/agent/...", "./guest/install/...", "./guest/index/list", sys}, tests: []string{".", "./guest/...", "./kvm"},
		reason: "the component: all parts of its system, and nothing that makes it large"},
	{pkg: "./guest/guesttest", allow: []string{crypto, "github.com/stretchr/testify"},
		reason: "real servers for tests; it knows nothing of what is tested on them"},
	{pkg: "./guest/sshchannel", allow: []string{".", "./guest", crypto, "github.com/pkg/sftp"}, tests: []string{"./guest/guesttest", "./guest/agent/wire", syncs},
		reason: "the one package that SSH and SFTP come with"},
	{pkg: "./guest/remote", allow: []string{".", "./guest", "./guest/agent/wire", "./pipe/mover", "./pipe/mover/trust", sys},
		tests:  []string{"./guest/agent", "./guest/guesttest", "./guest/sshchannel"},
		reason: "guest work on a proxy: behind a mover's port, by its keys; the ways into guests are handed in"},
	{pkg: "./guest/smbchannel/rpc", reason: "remote procedure calls: bytes in, bytes out, whoever carries them"},
	{pkg: "./guest/smbchannel/scm", allow: []string{"./guest/smbchannel/rpc"}, tests: []string{"./guest/smbchannel/scm/scmtest", "github.com/oiweiwei/go-msrpc"},
		reason: "services of a Windows machine over any pipe; another client library is its tests' alone"},
	{pkg: "./guest/smbchannel/scm/scmtest", allow: []string{"./guest/smbchannel/rpc", "./guest/smbchannel/scm"}, reason: "a service control manager for tests"},
	{pkg: "./guest/smbchannel/smbtest", allow: []string{"./guest/smbchannel/rpc", "./guest/smbchannel/scm", "./guest/smbchannel/scm/scmtest", "github.com/stretchr/testify"},
		reason: "a guest behind a real Samba, for tests"},
	{pkg: "./internal/kerberos", allow: []string{"github.com/jcmturner/gokrb5"}, reason: "one logon to a realm for the two channels to Windows"},
	{pkg: "./guest/smbchannel", allow: []string{".", "./guest", "./guest/smbchannel/rpc", "./guest/smbchannel/scm", "./internal/smbwire", "./internal/kerberos",
		"github.com/cloudsoda/go-smb2", "github.com/cloudsoda/sddl", "github.com/jcmturner/gokrb5"},
		tests:  []string{"./guest/smbchannel/smbtest", "./guest/guesttest", "./guest/agent/..."},
		reason: "the channel that an SMB client and Kerberos come with"},
	{pkg: "./guest/winrmchannel/pwsh", reason: "command lines for PowerShell: words in, words out; whoever runs them"},
	{pkg: "./guest/winrmchannel/wsman", reason: "messages of WS-Management: bytes in, bytes out, whoever carries them"},
	{pkg: "./internal/winrm/listener", allow: []string{crypto, "github.com/jcmturner/gokrb5", "github.com/jcmturner/gofork"},
		reason: "the server's side of WinRM's logons and encryption, for tests; it shares no code with the client"},
	{pkg: "./internal/winrm", allow: []string{"./internal/kerberos", "github.com/bodgit/ntlmssp", "github.com/jcmturner/gokrb5"},
		tests:  []string{"github.com/jcmturner/gofork"},
		reason: "one exchange with a Windows machine, for remote shells and for CIM: the package that NTLM over HTTP comes with"},
	{pkg: "./guest/winrmchannel/winrmtest", allow: []string{"./internal/winrm/listener"}, reason: "a WinRM listener for tests; it shares no code with the client"},
	{pkg: "./guest/winrmchannel", allow: []string{".", "./guest", "./guest/winrmchannel/pwsh", "./guest/winrmchannel/wsman", "./internal/winrm"},
		tests:  []string{"./guest/winrmchannel/winrmtest", "./guest/guesttest", "./guest/agent/wire"},
		reason: "the channel of remote shells: messages of its own over the exchange that CIM has too"},
	{pkg: "./hyperv/cim", allow: []string{"./internal/winrm"}, tests: []string{"./hyperv/hypervtest"},
		reason: "CIM over WS-Management, for whoever needs a Windows machine's classes: it knows no hypervisor"},
	{pkg: "./hyperv/hostfs", allow: []string{"./pipe", "./pipe/diskfile", "./hyperv/vhdx", "./internal/smbwire", "./internal/kerberos", "github.com/cloudsoda/go-smb2"},
		tests:  []string{"./guest/smbchannel/smbtest", "./pipe/pipetest"},
		reason: "the files of a host by SMB: disk formats stand on it, and it knows no class of Hyper-V's"},
	{pkg: "./hyperv", allow: []string{".", "./pipe", "./hyperv/cim", "./hyperv/vhdx", "./hyperv/hostfs"}, tests: []string{"./hyperv/hypervtest", "./hyperv/helper", "./hyperv/fsrvp", "./job", "./repo"},
		reason: "a driver: the nouns, and its own wire; never the repository or a session"},
	{pkg: "./hyperv/helper/wire", reason: "frames and messages: bytes in, bytes out, whoever carries them"},
	{pkg: "./hyperv/helper/requester", allow: []string{"./hyperv/helper/wire", "./guest/agent/vss", sys},
		reason: "runs on a Hyper-V host: its requests to the shadow copy service, COM by system calls; it knows no driver"},
	{pkg: "./hyperv/helper/requester/requestertest", allow: []string{"./hyperv/helper/requester"},
		reason: "a small shadow copy service for tests, on folders of this machine"},
	{pkg: "./hyperv/helper/hikae-hyperv", allow: []string{"./hyperv/helper/...", "./guest/agent/vss", "./guest/agent/winsvc", sys},
		reason: "the program for a host: what serves there, and nothing that makes it large"},
	{pkg: "./hyperv/helper", allow: []string{".", "./pipe", "./guest", "./hyperv", "./hyperv/helper/wire"},
		tests:  []string{"./hyperv/helper/requester/...", "./hyperv/hypervtest", "./hyperv/vhdx", "./guest/smbchannel/..."},
		reason: "the backup server's side of it: brought over any channel, spoken to by its wire"},
	{pkg: "./hyperv/hypervtest", allow: []string{"./pipe", "./pipe/diskfile", "./internal/freespace", "./internal/winrm/listener", "./hyperv/vhdx", "./hyperv/helper/requester",
		"./guest/smbchannel/smbtest", "./guest/smbchannel/scm/scmtest"},
		tests:  []string{"./guest/smbchannel/scm", "github.com/cloudsoda/go-smb2"},
		reason: "a Hyper-V host for tests, at the wire: it shares no code with the client; its files are real ones, behind a real Samba"},
	{pkg: "./hyperv/hypervtest/hypervvolume", allow: []string{".", "./pipe", "./hyperv", "./hyperv/hypervtest"}, tests: []string{"./hyperv/vhdx"},
		reason: "a storage vendor's means on the fake's array: the one package of it that knows the driver"},
	{pkg: "./hyperv/hypervtest/hyperv", allow: []string{"./hyperv/hypervtest", "./hyperv/helper/requester", "github.com/spf13/cobra"},
		reason: "the same as a process of its own; what serves a backup on a host runs in it"},
	{pkg: "./hyperv/fsrvp", allow: []string{".", "./hyperv", "./pipe", "./internal/smbwire", "./internal/kerberos", "github.com/oiweiwei/go-msrpc", "github.com/rs/zerolog"},
		tests:  []string{"./guest/smbchannel/smbtest", "./pipe/diskfile", "./hyperv/cim", "./hyperv/helper/...", "./hyperv/hypervtest", "./job", "./repo", "./repo/store/dirstore", "github.com/cloudsoda/go-smb2"},
		reason: "shadow copies of shares: calls that must be protected themselves, which our own remote procedure calls are not; the 122 MB of source stay in here"},
	{pkg: "./hyperv/dcom", allow: []string{"./hyperv/cim", "./internal/kerberos", "github.com/oiweiwei/go-msrpc", "github.com/rs/zerolog"},
		reason: "the second route to a host's classes, handed in by whoever wants it; the 122 MB of source stay in here"},
	{pkg: "./hyperv/psdirect", allow: []string{".", "./guest", "./guest/winrmchannel/pwsh"}, tests: []string{"./guest/winrmchannel/winrmtest"},
		reason: "scripts for a Hyper-V host; who runs them there is handed in, so that no wire comes with it"},
	{pkg: "./vmware/nfsserve", allow: []string{"./pipe", "./pipe/nbd", "./vmware/vmdk", "./internal/freespace", "github.com/willscott/go-nfs", "github.com/go-git/go-billy"},
		reason: "points as a datastore: the one package that an NFS server comes with; overlays are those of pipe/nbd"},
	{pkg: "./vmware/internal/nfcsoap", allow: []string{"github.com/vmware/govmomi"},
		reason: "calls of the API that govmomi lacks; the driver and its fake both speak them"},
	{pkg: "./vmware", allow: []string{".", "./pipe", "./pipe/diskfile", "./pipe/nbd", "./vmware/vmdk", "./vmware/nfc", "./vmware/internal/nfcsoap",
		"./internal/freespace", "github.com/vmware/govmomi"},
		tests:  []string{"./job", "./repo", "./vmware/nfc/nfctest", "./vmware/nfsserve", "./vmware/vmwaretest"},
		reason: "the provider and the restorer for vSphere, the ways to its disks among them; VMware's own library for its API"},
	{pkg: "./vmware/vmwaretest", allow: []string{"./pipe", "./vmware/vmdk", "./vmware/nfc/nfctest", "./vmware/internal/nfcsoap",
		"github.com/vmware/govmomi", "github.com/hanwen/go-fuse"}, tests: []string{"./vmware/nfc", syncs},
		reason: "a vSphere for tests, on govmomi's simulator; what a guest sees of its disks is mounted. Nothing that ships imports it"},
	{pkg: "./vmware/vmwaretest/vsphere", allow: []string{"./vmware/vmwaretest", "github.com/spf13/cobra"}, tests: []string{"github.com/vmware/govmomi"},
		reason: "the same as a process of its own"},
	{pkg: "./vmware/guestops", allow: []string{".", "./guest", "./guest/winrmchannel/pwsh", "github.com/vmware/govmomi"},
		tests:  []string{"./guest/guesttest", "./guest/agent/wire"},
		reason: "the channel that vSphere's client library comes with"},
	{pkg: "./guest/agent/winsvc/winetest", tests: []string{"./guest/agent/...", "./guest/install"},
		reason: "only tests: they run the Windows parts under wine, with a library of ours in VSS's place"},
	{pkg: "./guest/agent/vss/sqlserver", allow: []string{"./guest/agent", "./guest/agent/wire", sys},
		reason: "a part of the component; the server's own client is its driver"},
	{pkg: "./proxy", reason: "which machine does what is arithmetic"},
	{pkg: "./job", allow: []string{".", "./pipe", "./pipe/mover", "./repo", "./guest", "./proxy", syncs},
		reason: "sessions over any provider: never a hypervisor by name"},
	{pkg: "./job/diskvm", allow: []string{".", "./pipe", "./pipe/diskfile", "./pipe/qcow2", sys}, tests: []string{"./job", "./repo"},
		reason: "disk files as a provider like any other"},
	{pkg: "./job/bootcheck", allow: []string{".", "./pipe", "./job"}, tests: []string{"./kvm", "./kvm/kvmtest", "./repo", "./repo/store/memstore"},
		reason: "sessions that start a point: what starts it is an interface"},
	{pkg: "./job/replica", allow: []string{".", "./pipe", "./job"}, tests: []string{"./job/diskvm", "./kvm/replica", "./kvm/qmp", "./repo", "./repo/store/memstore"},
		reason: "moving a VM to its replica and back: what a replica is made of, and what stops a VM, are interfaces"},
	{pkg: "./job/replica/kvmsite", allow: []string{"./job/replica", "./kvm", "./kvm/qmp", "./kvm/replica"}, reason: "replicas that run under QEMU, for programs that want them"},
	{pkg: "./job/engine", allow: []string{".", "./pipe", "./job"}, tests: []string{"./repo", "./repo/store/dirstore", sys},
		reason: "many sessions at once: who orchestrates needs no tool"},
	{pkg: "./job/report", allow: []string{".", "./pipe", "./job", "./job/engine"}, reason: "a session's or a job's result for people: text, JSON, HTML"},
	{pkg: "./job/metrics", allow: []string{"./job", "github.com/prometheus/client_golang"}, tests: []string{".", "./pipe", "./job/diskvm", "./repo", "./repo/store/memstore"},
		reason: "sessions for Prometheus: who does not import it does not compile it"},
	{pkg: "./job/tracing", allow: []string{"./job", "go.opentelemetry.io/otel"}, tests: []string{".", "./pipe", "./job/diskvm", "./repo", "./repo/store/memstore"},
		reason: "sessions as spans: the same, and no SDK"},

	{pkg: "./job/schedule", reason: "when something is due is arithmetic: a text, a zone and a time in, a time out"},
	{pkg: "./job/jobfile", allow: []string{"./job/schedule", "./repo/retention", "gopkg.in/yaml.v3"},
		reason: "what a file says, as values: it opens nothing, and is the one package of sessions that YAML comes with"},
	{pkg: "./job/hooks", reason: "a program is run, a document is posted: it knows nothing of what it tells"},
	{pkg: "./job/queue", tests: []string{"./job/queue/queuetest"}, reason: "what machines of a fleet have in common: messages and a small map; it knows no work and no server"},
	{pkg: "./job/queue/queuetest", allow: []string{"./job/queue"}, reason: "the suite for implementers"},
	{pkg: "./job/natsqueue", allow: []string{"./job/queue", "github.com/nats-io/nats.go", "github.com/nats-io/nkeys"}, tests: []string{"./job/queue/queuetest", "./job/natsqueue/natsserver"},
		reason: "the one package that a client of NATS comes with; no server"},
	{pkg: "./job/natsqueue/natsserver", allow: []string{"./job/natsqueue", "github.com/nats-io/nats-server/v2"}, tests: []string{"./job/queue/queuetest", "github.com/nats-io/nkeys"},
		reason: "the one package that a server of NATS comes with"},
	{pkg: "./job/fleet", allow: []string{".", "./pipe", "./job/queue", syncs}, tests: []string{"./repo", "./job/natsqueue", "./job/natsqueue/natsserver"},
		reason: "who does what on which machine: it knows work by its handlers, and backends by what they can refuse"},
	{pkg: "./job/selftest", allow: []string{".", "./pipe", "./job", "./job/diskvm", "./repo", "./repo/store/dirstore", "./internal/freespace"},
		reason: "the whole cycle on a VM: the one place where sessions and a repository meet; nobody imports it but selftests of hypervisors"},
	{pkg: "./kvm/selftest", allow: []string{".", "./pipe", "./kvm", "./job/selftest"}, tests: []string{"./kvm/qmp"},
		reason: "the whole cycle on a VM of QEMU, and what only QEMU can be asked; nobody imports it but programs"},
	{pkg: "./vmware/selftest", allow: []string{".", "./pipe", "./vmware", "./job/selftest", "github.com/vmware/govmomi", syncs},
		tests:  []string{"./job", "./repo", "./repo/store/dirstore", "./vmware/vmwaretest"},
		reason: "the whole cycle on a VM of vSphere, and each transport by itself; nobody imports it but programs"},
	{pkg: "./hyperv/selftest", allow: []string{".", "./pipe", "./hyperv", "./job/selftest"},
		tests:  []string{"./hyperv/hypervtest", "./hyperv/cim"},
		reason: "the whole cycle on a VM of Hyper-V; nobody imports it but programs"},
	{pkg: "./internal/bubble", reason: "bubbles of synctest that the race detector bears; only tests import it"},
	{pkg: "./internal/labca", reason: "certificates for tests; nothing that ships imports it"},
	{pkg: "./internal/netlab", allow: []string{sys}, reason: "namespaces and bad lines for tests and figures; nothing that ships imports it"},
	{pkg: "./internal/bench", allow: []string{compress, reed, blake3, sys, "./kvm/kvmtest", "./kvm/qmp", "./internal/netlab"},
		reason: "times the libraries alone, and our program from outside: of our own packages only what starts and asks a test guest, and bad lines"},
	{pkg: "./internal/bench/nullcopy", allow: []string{"./pipe", "./pipe/nbd", "./repo", "./repo/store/dirstore"},
		reason: "a program for the bars: there is none that only reads"},
	{pkg: "./internal/fatdisk", allow: []string{"./pipe"}, reason: "a FAT volume for samples, where no mkfs can be counted on"},
	{pkg: "./packaging/msi", reason: "a program of releases: it calls other programs and knows none of our packages"},
	{pkg: "./internal/mutate", reason: "changes a Go file and runs its tests: the compiler's own packages do"},
	{pkg: "./internal/testsummary", reason: "reads test events"},
	{pkg: "./internal/tidy", reason: "tests over the tree"},
	{pkg: "./examples/reader", allow: []string{compress, reed, blake3, age, crypto},
		reason: "reads a repository by FORMAT.md alone: nothing of ours, so that the page and not the code is what it proves"},
	{pkg: "./examples/...", allow: []string{anything}, tests: []string{anything}, reason: "programs choose their own"},
}

// aims are what the table is for: packages that somebody embeds, and what must not be compiled with them, directly or
// through anything else.
var aims = []struct {
	pkgs   []string
	never  []string
	reason string
}{
	{pkgs: []string{"./pipe", "./pipe/qcow2", "./pipe/diskfile", "./pipe/nbd", "./pipe/mover", "./hyperv/vhdx", "./vmware/vmdk"},
		never:  []string{"./repo", "./job", "."},
		reason: "one disk reader does not bring the repository"},
	{pkgs: []string{"./pipe", "./pipe/qcow2", "./pipe/diskfile", "./repo", "./repo/store/dirstore", "./job", "./job/diskvm"},
		never: []string{"github.com/spf13/cobra", "github.com/vbauerster/mpb", "github.com/vmware/govmomi",
			"github.com/minio/minio-go", "github.com/nats-io", "github.com/stretchr/testify", "github.com/prometheus", "go.opentelemetry.io"},
		reason: "a repository on a directory brings neither a cloud, a hypervisor nor a terminal"},
	{pkgs: []string{"."}, never: []string{"./repo", "./job", age, reed}, reason: "a driver implements the nouns alone"},
}

// listed is what go list says of one package.
type listed struct {
	ImportPath                               string
	Imports, TestImports, XTestImports, Deps []string
}

// listPackages asks for one system; files for other systems are not seen.
func listPackages(t *testing.T, goos string) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports,Deps", "./...")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "GOOS="+goos, "GOARCH=amd64", "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	var list []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := dec.Decode(&p)
		if err == io.EOF {
			require.NotEmpty(t, list)
			return list
		}
		require.NoError(t, err)
		list = append(list, p)
	}
}

func TestLayering(t *testing.T) {
	t.Parallel()
	for _, goos := range []string{"linux", "windows", "darwin"} {
		t.Run(goos, func(t *testing.T) {
			t.Parallel()
			for _, p := range listPackages(t, goos) {
				for _, wrong := range breaches(p) {
					t.Error(wrong)
				}
			}
		})
	}
}

// breaches are the sentences that the table has against a package.
func breaches(p listed) (out []string) {
	pkg := local(p.ImportPath)
	r, ok := rowOf(pkg)
	if !ok {
		return []string{pkg + " has no row in the import table: add one with its reason"}
	}
	for _, imp := range p.Imports {
		if !allowed(imp, r.allow) {
			out = append(out, fmt.Sprintf("%s imports %s; its row allows %v (%s)", pkg, local(imp), r.allow, r.reason))
		}
	}
	forTests := slices.Concat(r.allow, r.tests, testOnly, []string{r.pkg, pkg, "./" + strings.TrimPrefix(pkg, "./") + "/..."})
	for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
		if !allowed(imp, forTests) {
			out = append(out, fmt.Sprintf("%s: its tests import %s", pkg, local(imp)))
		}
	}
	return out
}

// local writes one of our import paths from the module's root.
func local(path string) string {
	if path == module {
		return "."
	}
	if rest, ok := strings.CutPrefix(path, module+"/"); ok {
		return "./" + rest
	}
	return path
}

// rowOf finds a package's own row, else the nearest pattern above it.
func rowOf(pkg string) (row, bool) {
	if i := slices.IndexFunc(layers, func(r row) bool { return r.pkg == pkg }); i >= 0 {
		return layers[i], true
	}
	best, found := row{}, false
	for _, r := range layers {
		if strings.HasSuffix(r.pkg, "/...") && matches(pkg, r.pkg) && len(r.pkg) > len(best.pkg) {
			best, found = r, true
		}
	}
	return best, found
}

func allowed(imp string, allow []string) bool {
	first, _, _ := strings.Cut(imp, "/")
	if !strings.Contains(first, ".") {
		return true // the standard library
	}
	imp = local(imp)
	return slices.ContainsFunc(allow, func(a string) bool { return matches(imp, a) })
}

// matches: a pattern of ours is exact but for "/...", one of another module covers what lies below it.
func matches(imp, pattern string) bool {
	if pattern == anything {
		return true
	}
	if above, ok := strings.CutSuffix(pattern, "/..."); ok {
		return imp == above || strings.HasPrefix(imp, above+"/")
	}
	ours := pattern == "." || strings.HasPrefix(pattern, "./")
	return imp == pattern || !ours && strings.HasPrefix(imp, pattern+"/")
}

func TestAims(t *testing.T) {
	t.Parallel()
	all := map[string]listed{}
	for _, p := range listPackages(t, "linux") {
		all[local(p.ImportPath)] = p
	}
	for _, aim := range aims {
		for _, pkg := range aim.pkgs {
			for _, dep := range all[pkg].Deps {
				for _, never := range aim.never {
					if matches(local(dep), never) {
						t.Errorf("%s is compiled with %s: %s", pkg, local(dep), aim.reason)
					}
				}
			}
		}
	}
}

// The table itself: every row has a reason, no package two rows, and nothing points down the list.
func TestTable(t *testing.T) {
	t.Parallel()
	at := map[string]int{}
	for i, r := range layers {
		require.NotEmpty(t, r.reason, r.pkg)
		_, twice := at[r.pkg]
		require.False(t, twice, "%s has two rows", r.pkg)
		at[r.pkg] = i
	}
	for i, r := range layers {
		for _, a := range r.allow {
			if j, known := at[a]; known {
				require.LessOrEqual(t, j, i, "%s may import %s, which stands above it", r.pkg, a)
			}
		}
	}
}

// The checks find what they are there to find.
func TestBreaches(t *testing.T) {
	t.Parallel()
	require.Empty(t, breaches(listed{ImportPath: module + "/pipe", Imports: []string{"io", compress + "/zstd"}}))
	require.Len(t, breaches(listed{ImportPath: module + "/pipe", Imports: []string{module + "/repo"}}), 1)
	require.Len(t, breaches(listed{ImportPath: module + "/repo/store", Imports: []string{"golang.org/x/sys/unix"}}), 1)
	require.Len(t, breaches(listed{ImportPath: module + "/unheard/of"}), 1)
	require.Len(t, breaches(listed{ImportPath: module + "/pipe", TestImports: []string{"github.com/spf13/cobra"}}), 1)
	require.Empty(t, breaches(listed{ImportPath: module + "/repo/internal/cell", Imports: []string{reed}}))
	require.False(t, matches("./pipeline", "./pipe/..."))
	require.False(t, matches("./pipe/nbd", "./pipe"))
}
