package engine

import (
	"maps"
	"slices"

	"github.com/hikae/hikae"
)

// Needs are the resources that a VM's backup takes, as far as its provider tells: "host/" and the fact "host", "proxy/" and the fact
// "proxy", and "datastore/" and each of the facts "datastore.KEY", one for each of its disks that is backed up. Each stands there once.
func Needs(vm hikae.VM) []string {
	needs := map[string]bool{}
	for _, class := range []string{"host", "proxy"} {
		if name := vm.Facts[class]; name != "" {
			needs[class+"/"+name] = true
		}
	}
	for _, d := range vm.Disks {
		if name := vm.Facts[DatastoreFact+d.Key]; name != "" && d.Skip == "" {
			needs["datastore/"+name] = true
		}
	}
	return slices.Sorted(maps.Keys(needs))
}

// DatastoreFact begins the name of the fact that says where a disk lies; its key follows. What it says names one place for all VMs that
// share it.
const DatastoreFact = "datastore."
