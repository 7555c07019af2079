package vmware

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vmware/govmomi/vim25/types"
)

// snapshotTree is the snapshots of a VM, by their references' values.
type snapshotTree struct {
	current string // what the VM stands on; empty: there is no snapshot
	nodes   map[string]snapshotNode
}

type snapshotNode struct {
	ref               types.ManagedObjectReference
	parent            string // empty: it is a root
	children          int
	name, description string
	number            int32 // counts up as they are made
	created           time.Time
	quiesced          bool
	manifest          bool // the guest's applications wrote down what they quiesced
}

// maxSnapshots bounds how many snapshots of one VM are looked at. A host allows 32 in a row.
const maxSnapshots = 4096

// treeOf flattens what the server tells. What it nests without end, lists twice or lists too much of is an error.
func treeOf(info *types.VirtualMachineSnapshotInfo) (*snapshotTree, error) {
	t := &snapshotTree{nodes: map[string]snapshotNode{}}
	if info == nil {
		return t, nil
	}
	if info.CurrentSnapshot != nil {
		t.current = info.CurrentSnapshot.Value
	}
	type level struct {
		parent string
		list   []types.VirtualMachineSnapshotTree
	}
	for todo := []level{{"", info.RootSnapshotList}}; len(todo) > 0; {
		now := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, s := range now.list {
			if _, twice := t.nodes[s.Snapshot.Value]; twice || len(t.nodes) == maxSnapshots {
				return nil, fmt.Errorf("snapshots: %s is listed twice, or there are more than %d", s.Snapshot.Value, maxSnapshots)
			}
			t.nodes[s.Snapshot.Value] = snapshotNode{
				ref: s.Snapshot, parent: now.parent, children: len(s.ChildSnapshotList), name: s.Name, description: s.Description,
				number: s.Id, created: s.CreateTime, quiesced: s.Quiesced, manifest: s.BackupManifest != "",
			}
			if len(s.ChildSnapshotList) > 0 {
				todo = append(todo, level{s.Snapshot.Value, s.ChildSnapshotList})
			}
		}
	}
	return t, nil
}

// marked are the snapshots with a mark, or with any of ours where mark is empty.
func (t *snapshotTree) marked(mark string) (out []snapshotNode) {
	for _, n := range t.nodes {
		if m := n.mark(); m != "" && (mark == "" || m == mark) {
			out = append(out, n)
		}
	}
	return out
}

// without is the tree as it was before a snapshot, which has no children, was made on top of it.
func (t *snapshotTree) without(ref string) *snapshotTree {
	out := &snapshotTree{current: t.current, nodes: map[string]snapshotNode{}}
	for value, n := range t.nodes {
		if value != ref {
			out.nodes[value] = n
		}
	}
	if t.current == ref {
		out.current = t.nodes[ref].parent
	}
	return out
}

// What a snapshot of ours is called, and what its description says. It is known again by both together: names are not
// unique, and people write descriptions.
const namePrefix = "hikae "

var (
	markLine = regexp.MustCompile(`(?m)^hikae-mark: ([a-z2-7]{26})\r?$`)
	byLine   = regexp.MustCompile(`(?m)^Made on (\S{1,64}) at ([0-9TZ:-]{20})\.\r?$`)
)

func describe(mark string) string {
	return "Made by a backup, which removes it when it is done. If no backup of this VM is running, it was left behind: the next\n" +
		"backup by the same program removes it.\n" +
		"Made on " + cmp.Or(machineName(), "unknown") + " at " + time.Now().UTC().Format(time.RFC3339) + ".\nhikae-mark: " + mark
}

// owner says whose a snapshot of ours is, and what can be done where that one is dead.
func (n snapshotNode) owner() string {
	text := fmt.Sprintf("a session that is running, or was killed and not yet swept (snapshot %q, %s", n.name, n.ref.Value)
	if m := byLine.FindStringSubmatch(n.description); m != nil && utf8.ValidString(m[1]) {
		text += ", made on machine " + m[1] + " at " + m[2] + " by that machine's clock"
	} else {
		text += ", made at " + n.created.UTC().Format(time.RFC3339)
	}
	return text + "); if no backup of this VM runs there, start the program there once, which removes what it left, or remove the snapshot by hand"
}

// mark is the mark of a snapshot of ours, empty for anybody else's.
func (n snapshotNode) mark() string {
	m := markLine.FindStringSubmatch(n.description)
	if m == nil || !strings.HasPrefix(n.name, namePrefix) {
		return ""
	}
	return m[1]
}
