// Command fleet works out what a fleet costs: a night's run of many VMs on many workers, and the sums of queue, index, log and network
// that come with it. Nothing is backed up. Times come from a simulation of the run; sizes from figures that were measured on a real
// repository and a real queue, and that its test measures again.
//
//	go run ./examples/fleet -vms 10000 -petabytes 1
//	go run ./examples/fleet -vms 500 -petabytes 0.05 -workers 4 -repositories 1
//
// docs/fleet.md explains each line.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	f := defaults()
	asJSON := flag.Bool("json", false, "print one JSON document")
	flag.IntVar(&f.VMs, "vms", f.VMs, "virtual machines")
	flag.Float64Var(&f.Petabytes, "petabytes", f.Petabytes, "size of their disks together, in PB (10^15 bytes)")
	flag.Float64Var(&f.Used, "used", f.Used, "share of the disks that holds data")
	flag.Float64Var(&f.Unique, "unique", f.Unique, "share of the data that is left after deduplication")
	flag.Float64Var(&f.Compressed, "compressed", f.Compressed, "share of a block that is left after compression")
	flag.Float64Var(&f.Change, "change", f.Change, "share of the data that changes in a day")
	flag.IntVar(&f.Workers, "workers", f.Workers, "machines that do the work")
	flag.IntVar(&f.Slots, "slots", f.Slots, "tasks at once on each")
	flag.Float64Var(&f.Link, "link", f.Link, "a worker's link, in Gbit/s each way")
	flag.Float64Var(&f.Store, "store", f.Store, "what the stores take together, in Gbit/s")
	flag.IntVar(&f.Hosts, "hosts", f.Hosts, "hypervisors")
	flag.IntVar(&f.PerHost, "per-host", f.PerHost, "VMs of one hypervisor at once")
	flag.Float64Var(&f.Read, "read", f.Read, "what one VM's disks are read with, in MB/s")
	flag.DurationVar(&f.Overhead, "overhead", f.Overhead, "what a VM takes besides: snapshot, commit, release")
	flag.IntVar(&f.Repositories, "repositories", f.Repositories, "repositories that the VMs are spread over")
	flag.DurationVar(&f.Lease, "lease", f.Lease, "the queue's lease")
	flag.Uint64Var(&f.Seed, "seed", f.Seed, "of sizes and changes")
	flag.Parse()
	if err := f.check(); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(2)
	}
	begun := time.Now()
	s := f.sums()
	if *asJSON {
		if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
			fmt.Fprintln(os.Stderr, "fleet:", err)
			os.Exit(1)
		}
		return
	}
	fmt.Print(s.text())
	fmt.Fprintf(os.Stderr, "worked out in %s\n", time.Since(begun).Round(time.Millisecond))
}
