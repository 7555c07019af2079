package hyperv

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/vhdx"
)

// moment is what the ledger knows of one disk at the moment of a checkpoint. It stands in the restore point itself, as the disk's
// hikae.ChangeID, so it is committed with the point and with nothing else:
//
//	hyperv1:build=N&data=GUID&disk=KEY&file=NAME&id=GUID&rct=ID&ref=INSTANCEID&restored=WORD&sector=BYTES&size=BYTES&vm=GUID
//
// The host's own id alone would not do: it says nothing of a disk that was resized, reverted, replaced or restored.
type moment struct {
	build    int    // of the host that gave the id
	data     string // DataWriteGuid of the file that the guest wrote to up to that moment
	disk     string // its key
	file     string // that file's name without its folder: storage may be moved
	id       string // the virtual disk's own id, as the file has it
	rct      string // the host's id of the moment
	ref      string // InstanceID of the reference point that keeps it
	restored string // the VM's word for when a restore last wrote over it; empty where none did
	sector   int64  // bytes
	size     int64  // bytes
	vm       string // GUID
}

const (
	momentPrefix = "hyperv1:"
	maxMoment    = 1024 // bytes of one id
	maxRCT       = 256  // bytes of a host's id
)

// change is the moment in a restore point. One that would be too long is none.
func (m moment) change() hikae.ChangeID {
	v := url.Values{"build": {strconv.Itoa(m.build)}, "data": {m.data}, "disk": {m.disk}, "file": {m.file}, "id": {m.id}, "rct": {m.rct}, "ref": {m.ref},
		"restored": {m.restored}, "sector": {strconv.FormatInt(m.sector, 10)}, "size": {strconv.FormatInt(m.size, 10)}, "vm": {m.vm}}
	return hikae.ChangeID(momentPrefix + v.Encode())
}

// parseMoment takes what change made, and nothing else.
func parseMoment(c hikae.ChangeID) (m moment, err error) {
	if len(c) > maxMoment {
		return m, fmt.Errorf("it is %d bytes long", len(c))
	}
	text, ok := strings.CutPrefix(string(c), momentPrefix)
	if !ok {
		return m, fmt.Errorf("it is not one of this hypervisor's")
	}
	v, err := url.ParseQuery(text)
	if err != nil {
		return m, fmt.Errorf("it is damaged: %w", err)
	}
	m = moment{data: v.Get("data"), disk: v.Get("disk"), file: v.Get("file"), id: v.Get("id"), rct: v.Get("rct"), ref: v.Get("ref"),
		restored: v.Get("restored"), vm: v.Get("vm")}
	if m.build, err = strconv.Atoi(v.Get("build")); err != nil || m.build <= 0 {
		return m, fmt.Errorf("it is damaged: build is %.32q", v.Get("build"))
	}
	for name, to := range map[string]*int64{"size": &m.size, "sector": &m.sector} {
		if *to, err = strconv.ParseInt(v.Get(name), 10, 64); err != nil || *to <= 0 {
			return m, fmt.Errorf("it is damaged: %s is %.32q", name, v.Get(name))
		}
	}
	if !isGUID(m.vm) || m.rct == "" || m.ref == "" || m.disk == "" || m.file == "" {
		return m, fmt.Errorf("it is damaged: something is missing")
	}
	if m.change() != c {
		return m, fmt.Errorf("it is damaged: it is not written as this program writes it")
	}
	return m, nil
}

// follows says why what changed between two moments of a disk cannot be told; nil where nothing speaks against it. chain are the
// files that the disk is made of now, the checkpoint's own first.
func (m moment) follows(past moment, chain []string) error {
	switch {
	case past.vm != m.vm:
		return lost("the base point's change id is of another VM, %s", past.vm)
	case past.disk != m.disk || past.id != m.id:
		return lost("the disk was replaced since the base point: it was %s (%s), and is %s (%s)", past.disk, past.id, m.disk, m.id)
	case past.size != m.size:
		return lost("the disk was resized from %d to %d bytes", past.size, m.size)
	case past.sector != m.sector:
		return lost("the disk's sectors had %d bytes at the base point, and have %d", past.sector, m.sector)
	case past.restored != m.restored:
		return lost("its disks were written over by a restore since the base point (%q)", m.restored)
	case !slices.ContainsFunc(chain, func(f string) bool { return strings.EqualFold(fileName(f), past.file) }):
		// A revert makes new files, with names that were never there before: what the guest had written to goes.
		return lost("%s, which the guest wrote to at the base point, is no longer a part of the disk: the VM was reverted to a checkpoint, or that file was merged", past.file)
	}
	return nil
}

// fileName is a name of Windows without its folder.
func fileName(path string) string { return path[strings.LastIndexByte(path, '\\')+1:] }

// guidText is a GUID as ids hold it.
func guidText(g vhdx.GUID) string { return strings.ToLower(strings.Trim(g.String(), "{}")) }

// RestoredNote begins the line of a VM's notes by which an in-place restore says when it wrote over the VM's disks: change tracking
// does not see such writes, so no change id from before is believed afterwards. What follows it on the line is compared and not read.
const RestoredNote = "hikae restored "

// restoredWord is that word of a VM's notes.
func restoredWord(notes []string) string {
	for _, note := range notes {
		for line := range strings.Lines(note) {
			if word, ok := strings.CutPrefix(strings.TrimSpace(line), RestoredNote); ok {
				return word[:min(len(word), 64)]
			}
		}
	}
	return ""
}
