package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/repo"
)

// appends reports that this machine has the role append there: it sees its own VMs alone, and reads nothing back.
func (o *opened) appends() bool { return trust.Role(o.as.Role) == trust.Append }

// readable refuses, before anything is done, what the role of this machine does not allow anyway: the mover would refuse
// it too, block by block, and what looks for file systems would take that for an empty disk.
func (o *opened) readable() error {
	if !o.appends() {
		return nil
	}
	blind := ""
	if o.as.Mode == blindMode {
		blind = "--blind "
	}
	hint := fmt.Sprintf("Enrol once more with a token of the role full: on the mover's machine, hikae mover token %s--repo REPO NAME --role full.", blind)
	if o.as.Mode == blindMode {
		hint += " The repository's secret is needed too."
	}
	return &outcome.Error{Kind: outcome.KindPermission, Object: o.as.url(), Hint: hint,
		Text: fmt.Sprintf("a machine with the role append reads nothing back, and this one is %s at %s", o.as.Name, o.as.Address)}
}

// ownName refuses a VM, or a point of one, by the name that it has in the repository where this machine has another.
func (o *opened) ownName(name string) error {
	own, ok := strings.CutPrefix(name, o.as.Name+"/")
	if !o.appends() || o.as.Mode == blindMode || !ok {
		return nil
	}
	return outcome.Usage(fmt.Sprintf("Write %s. What stands before it is added for machines with the role full, and in the repository.", own), "here %s is called %s", name, own)
}

// covers refuses a VM that the writer's key of this machine is not for.
func (o *opened) covers(vm string) error {
	if o.writes == nil || vm == "" || slices.Contains(o.writes, vm) {
		return nil
	}
	all := append(slices.Clone(o.writes), vm)
	return &outcome.Error{Kind: outcome.KindPermission, Object: vm,
		Text: fmt.Sprintf("the writer's key of this machine is not for the VM %s, but for %s", vm, strings.Join(o.writes, ", ")),
		Hint: fmt.Sprintf("Whoever has the repository's secret makes another key: hikae key writer --repo REPO --vm %s --out FILE. Then here: hikae mover enrol %s --writer-key FILE.",
			strings.Join(all, " --vm "), o.as.url())}
}

// url is what the place behind an enrolment is called here.
func (e enrolment) url() string { return farPlace{address: e.Address, name: e.Name}.String() }

// writerVMs are those that the writer's key in the folder of an enrolment is for, nil where that is not known.
func writerVMs(dir string) []string {
	data, err := readSmall(filepath.Join(dir, writerKeyFile), maxWriterKey)
	if err != nil {
		return nil
	}
	key, err := repo.ParseWriterKey(bytes.TrimSpace(data))
	if err != nil {
		return nil
	}
	return key.VMs()
}
