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
//	hyperv1:build=N&data=GUID&disk=KEY&file=NAME&id=GUID&rct=ID&ref=INSTANCEID&repo=ID&restored=WORD&sector=BYTES&seq=N&size=BYTES&vm=GUID
//
// The host's own id alone would not do: it says nothing of a disk that was resized, reverted, replaced, restored, or put back from a copy.
type moment struct {
	build    int    // of the host that gave the id
	data     string // DataWriteGuid of the file that the guest wrote to up to that moment
	disk     string // its key
	file     string // that file's name without its folder: storage may be moved
	id       string // the virtual disk's own id, as the file has it
	rct      string // the host's id of the moment
	ref      string // InstanceID of the reference point that keeps it
	repo     string // id of the repository that the point went to: copies of it name its reference point too, and do not own it
	restored string // the VM's word for when a restore last wrote over it; empty where none did
	sector   int64  // bytes
	seq      uint64 // of that file's header, which grows with each session of writing
	size     int64  // bytes
	vm       string // GUID
}

// link is one file of the chain that a disk is made of.
type link struct {
	path string
	seq  uint64
	data string
}

const (
	momentPrefix = "hyperv1:"
	maxMoment    = 1024 // bytes of one id
	maxRCT       = 256  // bytes of a host's id
)

// change is the moment in a restore point. One that would be too long is none.
func (m moment) change() hikae.ChangeID {
	v := url.Values{"build": {strconv.Itoa(m.build)}, "data": {m.data}, "disk": {m.disk}, "file": {m.file}, "id": {m.id}, "rct": {m.rct}, "ref": {m.ref},
		"repo": {m.repo}, "restored": {m.restored}, "sector": {strconv.FormatInt(m.sector, 10)},
		"seq": {strconv.FormatUint(m.seq, 10)}, "size": {strconv.FormatInt(m.size, 10)}, "vm": {m.vm}}
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
		repo: v.Get("repo"), restored: v.Get("restored"), vm: v.Get("vm")}
	if m.build, err = strconv.Atoi(v.Get("build")); err != nil || m.build <= 0 {
		return m, fmt.Errorf("it is damaged: build is %.32q", v.Get("build"))
	}
	for name, to := range map[string]*int64{"size": &m.size, "sector": &m.sector} {
		if *to, err = strconv.ParseInt(v.Get(name), 10, 64); err != nil || *to <= 0 {
			return m, fmt.Errorf("it is damaged: %s is %.32q", name, v.Get(name))
		}
	}
	if m.seq, err = strconv.ParseUint(v.Get("seq"), 10, 64); err != nil {
		return m, fmt.Errorf("it is damaged: seq is %.32q", v.Get("seq"))
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
func (m moment) follows(past moment, chain []link) error {
	switch {
	case past.vm != m.vm:
		return lost("the base point's change id is of another VM, %s", past.vm)
	case past.disk != m.disk || past.id != m.id:
		return lost("the disk was replaced since the base point: it was %s (%s), and is %s (%s)", past.disk, past.id, m.disk, m.id)
	case past.size != m.size:
		return lost("the disk was resized from %d to %d bytes", past.size, m.size)
	case past.sector != m.sector:
		return lost("the disk's sectors had %d bytes at the base point, and have %d", past.sector, m.sector)
	case past.restored != m.restored && m.restored == "":
		return lost("the line in the VM's notes that tells of a restore in place was taken away since the base point")
	case past.restored != m.restored:
		return untrackedError{"restored in place since the last backup"}
	}
	i := past.in(chain)
	if i < 0 {
		// A revert makes new files, with names that were never there before: what the guest had written to goes.
		return lost("%s, which the guest wrote to at the base point, is no longer a part of the disk: the VM was reverted to a checkpoint, or that file was merged", past.file)
	}
	// A copy that is put back has the disk's id, and trackers know nothing of it. But the header counts, and nothing counts backwards. A
	// copy that was written to more often since than the file was before is past this, and left to who samples what is unchanged.
	if at := chain[i]; at.seq < past.seq || at.seq == past.seq && at.data != past.data {
		return lost("%s is not what became of the file of the base point (its header counts %d, and counted %d): a copy was put in its place, or the host moved the disk into a new file", past.file, at.seq, past.seq)
	}
	return nil
}

// in is where in a chain the file is that the guest wrote to at that moment; -1: nowhere.
func (m moment) in(chain []link) int {
	return slices.IndexFunc(chain, func(l link) bool { return strings.EqualFold(fileName(l.path), m.file) })
}

// fileName is a name of Windows without its folder.
func fileName(path string) string { return path[strings.LastIndexByte(path, '\\')+1:] }

// guidText is a GUID as ids hold it.
func guidText(g vhdx.GUID) string { return strings.ToLower(strings.Trim(g.String(), "{}")) }

// RestoredNote begins a line of a VM's notes by which an in-place restore says that it wrote over the VM's disks: change tracking
// does not see such writes, so no change id from before is believed afterwards. What follows it on the line is compared and not read.
// People and other programs replace notes as a whole, so they are not the only proof: see placeDraft.untrack.
const RestoredNote = "hikae restored "

// restoredWord is that word of a VM's notes. There is one: an older one that came to light again when the newest is taken away would
// look like the word of a point from before that.
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
