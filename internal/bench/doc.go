// Bench measures Hikae against its peers and against the limit of the machine, and writes docs/benchmarks.md.
//
// It is run by make bench, on Linux as root. It builds its own input once (see fixture.go) and keeps it outside the
// tree, in $HIKAE_BENCH_DIR or the user's cache folder. It then runs hikae, Debian's restic and Debian's borgbackup on
// the same disks, step by step in turn, so that what else the machine does at a time hits all of them.
//
// # What a figure means
//
// Wall time and CPU time (user and system, as the kernel accounts them to the process) are of the whole program, start
// to end. Peak memory is the process's high-water mark. A ratio is the median of the ratios of the rounds, never a
// ratio of two medians of different rounds. The input is in the page cache, and every repository lies on the same file
// system.
package main
