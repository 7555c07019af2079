package main

import (
	"fmt"
	"path"
	"strings"

	"github.com/hikae/hikae/job/jobfile"
)

// unfit are the names in a job file that fit no VM of the job, in words: what was meant for a VM that is spelled otherwise would be
// left out without a word.
func (j *openJob) unfit() (out []string) {
	look := func(field string, patterns []string) {
		for _, p := range patterns {
			if !j.anyFits(p) {
				out = append(out, fmt.Sprintf("%s: %s fits no VM of this job", field, p))
			}
		}
	}
	for i, g := range j.file.Guest {
		look(fmt.Sprintf("guest[%d].vms", i), g.VMs)
	}
	if b := j.file.BootCheck; b != nil {
		look("boot-check.vms", b.VMs)
	}
	for i, r := range j.file.Replicas {
		look(fmt.Sprintf("replicas[%d].vms", i), r.VMs)
	}
	return out
}

func (j *openJob) anyFits(pattern string) bool {
	for _, vm := range j.vms { // also those that fail today
		name := vm.name
		if ok, err := path.Match(pattern, name); pattern == name || err == nil && ok {
			return true
		}
	}
	return false
}

// replicated are the VMs that a replica entry of the file keeps ready, and where.
func (j *openJob) replicated(r *jobfile.Replica) string {
	var names []string
	for _, name := range j.names() {
		if jobfile.Fits(r.VMs, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	return strings.Join(names, ", ") + " at " + r.To
}
