// Command embed is the smallest useful program: it backs up a disk image into a new repository, and restores it.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: embed DISK REPOSITORY RESTORED, with the passphrase in HIKAE_PASSWORD")
	}
	ctx, disk, dir, restored := context.Background(), os.Args[1], os.Args[2], os.Args[3]

	st, err := dirstore.Init(dir)
	check(err)
	r, err := repo.Init(ctx, st, repo.Passphrase(os.Getenv("HIKAE_PASSWORD")), nil, nil)
	check(err)
	vm, err := diskvm.Open(ctx, "web1", []diskvm.File{{Key: "disk0", Path: disk}}, nil)
	check(err)
	done, err := job.Backup(ctx, vm, "", r, nil)
	check(err)
	fmt.Printf("point %s, %d bytes stored, bottleneck: %s\n", done.Point, done.Stored, done.Bottleneck)

	point, err := r.Resolve(ctx, "web1@latest")
	check(err)
	files, err := diskvm.NewRestorer(restored, nil)
	check(err)
	_, err = job.Restore(ctx, r, point, files, nil)
	check(err)
	check(r.Close())
	check(st.Close())
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
