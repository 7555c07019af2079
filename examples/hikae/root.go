package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// root is the tree of commands.
func (t *tool) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "hikae",
		Short: "Back up virtual machines' disks, and bring them back",
		Long: text(`
Hikae copies the disks of virtual machines into a repository, where every restore point is complete, blocks that are
the same are stored once, and everything is compressed, encrypted and protected by parity.`),
		Example: example(`
export HIKAE_PASSWORD='correct horse battery staple'
hikae init /backup/hikae
hikae backup --repo /backup/hikae --name web1 /vm/web1.qcow2
hikae points --repo /backup/hikae
hikae restore --repo /backup/hikae web1@latest --to /vm/web1-restored.qcow2
hikae verify --repo /backup/hikae --data all`),
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.PersistentFlags().BoolVar(&t.json, "json", false, "print one JSON document on stdout, and nothing else there")
	root.PersistentFlags().BoolVarP(&t.quiet, "quiet", "q", false, "say only what went wrong")
	root.AddCommand(t.initCommand(), t.backupCommand(), t.jobCommand(), t.fleetCommand(), t.workerCommand(), t.pointsCommand(), t.restoreCommand(), t.copyCommand(), t.verifyCommand(), t.forgetCommand(), t.pruneCommand(), t.holdCommand(), t.unholdCommand(),
		t.lsCommand(), t.catCommand(), t.findCommand(), t.serveCommand(), t.replicaCommand(), t.bootcheckCommand(), t.kvmCommand(), t.vsphereCommand(), t.hypervCommand(), t.moverCommand(), t.guestCommand(), t.proxyCommand(), t.keyCommand(), t.repoCommand(), t.statsCommand(), t.reportCommand(), t.completionCommand(), t.versionCommand(), t.guardCommand())
	root.AddCommand(topics()...)
	return root
}

// topics are pages of help that belong to no command.
func topics() []*cobra.Command {
	return []*cobra.Command{
		{Use: "exit-status", Short: "What the exit statuses and errors mean", Long: text(`
  0    done
  1    failed
  2    the command line is wrong, or asks for something that does not exist yet
  3    done, with warnings: a disk was skipped, the consistency is lower than asked for, damage was found and all of it
       was repaired, or a damaged point was salvaged with holes
  4    damage is left
  130  interrupted

Warnings and errors go to stderr. With --json, a command that has no result prints this document on stdout:

  {"error": {"kind", "message", "object", "offset", "length", "hint"}}

object names the file, point or object of the repository that the error is about; offset and length are bytes in it,
null where no range is known; hint says what to do next. kind is one of

  usage        the command line is wrong          unsupported  a format or version that this program does not know
  secret       wrong passphrase, key or identity  not-found    no such repository, point, disk, file or session
  exists       something is there already         ambiguous    a prefix fits several points
  locked       QEMU has the disk open             changed      a disk was written to while it was read
  busy         another session is at work         forgotten    the point was removed
  corrupt      stored data is damaged             rollback     the repository shows an older state than before
  read-only    the repository takes no writes     no-space     the disk is full
  permission   access was denied                  image        not a disk image, or a broken one
  deadline     something took too long            interrupted  Ctrl-C or SIGTERM
  failed       anything else`)},
		{Use: "secrets", Short: "How passphrases and keys are given", Long: text(`
A repository is encrypted unless it was made with --no-encryption. A secret that opens it is given in one of these ways,
never as an argument, which everybody on the machine could read:

  HIKAE_PASSWORD        environment variable with the passphrase
  --password-file FILE  the first line of FILE is the passphrase
  --key-file FILE       FILE holds a key: 32 random bytes, or 64 hexadecimal digits
  --identity FILE       FILE holds age identities (AGE-SECRET-KEY-1…)

Where a command takes a second repository (hikae copy --from, hikae verify --repair --from, hikae init
--copy-parameters-from), that one's passphrase is in HIKAE_FROM_PASSWORD, and its flags are --from-password-file,
--from-key-file and --from-identity.

What a hypervisor is logged on to with stands in variables too:

  HIKAE_SOURCE_PASSWORD  the password of the user that an address names (vsphere://USER@HOST/…, hyperv://…)
  HIKAE_SOURCE_TOKEN     vSphere: a SAML token as XML, or @FILE
  HIKAE_SOURCE_SESSION   vSphere: the cookie vmware_soap_session of a session that exists

At most one of the flags may be given; a flag goes before the variable. Without any of them the passphrase is asked for,
where there is a terminal. Whoever loses all secrets of a repository loses what is in it: nobody can help.`)},
		{Use: "hyperv-addresses", Short: "How hosts and VMs of Hyper-V are named", Long: text(`
hyperv://USER@HOST[:PORT]/?vm=web1&… is a Hyper-V host, or a cluster by any of its names. The password is in
HIKAE_SOURCE_PASSWORD. A user of a domain is written DOMAIN%5Cuser or user%40example.org. Without vm= and match= all VMs are meant.

  vm=, match=         a VM by GUID, or by name where only one has it; a pattern of names. Both may repeat
  procedure=          auto (default), production, writer2012r2, writer2012 or requester
  mode=               on-host (default), or off-host: read from a shadow copy of the share that the VM lies on
  quiesce=            try (default), require or off
  full=1              guests truncate their logs
  rct=off             changes are not tracked: all is read each time
  ignore=             a disk, by key or place (scsi0-1), that is left out though no checkpoint covers it. May repeat
  check=off           what would stop a backup is not looked for first
  tls=1, plain=1      HTTPS at port 5986; or, the default, HTTP at 5985 with every message encrypted
  thumbprint=, ca=    with tls: the only certificate that is taken; a file of authorities
  realm=, kdc=        Kerberos instead of NTLM
  node.NODE=, smb=, smb.NODE=   where a node of a cluster, and files by SMB, are reached: HOST[:PORT]
  transport=dcom      WMI over DCOM, where WS-Management is off

docs/hyperv.md says more, and what an address of a restore has besides.`)},
		{Use: "places", Short: "Where Hikae keeps its own files", Long: text(`
  HIKAE_STATE_DIR  what must survive: the newest state seen of each repository, this machine's signing keys, reports of
                   past sessions, and the journal, by which a later command takes back what a killed one left on a
                   hypervisor. Default: $XDG_STATE_HOME/hikae or ~/.local/state/hikae, on macOS and Windows the
                   user's application folder.
  HIKAE_CACHE_DIR  what can be made again: indexes. Default: the user's cache folder.

Where neither variable nor home folder is set, commands that need these places fail and say so.

REPO is a folder, a folder on a share that is spoken to directly (smb://HOST[:PORT]/SHARE/FOLDER), one in a bucket of an
object store (s3://HOST[:PORT]/BUCKET/PREFIX, docs/s3.md), several of these of which some may be lost (stripe:FILE, see: hikae
repo stripe), or a repository behind a mover (mover://HOST[:PORT]/NAME, see: hikae mover). As whom to log on to a share is said by

  HIKAE_SMB_CREDENTIALS  a file with the lines username=, password= and domain=, as mount.cifs has it, or
  HIKAE_SMB_USER         user or DOMAIN\user, with the password in HIKAE_SMB_PASSWORD

and whose a bucket's requests are by the variables of AWS's own tools: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with
AWS_SESSION_TOKEN), a profile of AWS_SHARED_CREDENTIALS_FILE, or the machine's role; AWS_REGION and AWS_CA_BUNDLE count too.`)},
	}
}

// text is a raw string without the line feeds around it.
func text(s string) string { return strings.Trim(s, "\n") }

// example indents the lines of a raw string, as cobra shows them.
func example(s string) string {
	return "  " + strings.ReplaceAll(text(s), "\n", "\n  ")
}
