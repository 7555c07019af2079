package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// victimEnv makes of the test program one that backs up and is killed. It holds a victimPlan.
const victimEnv = "HIKAE_KVM_VICTIM"

type victimPlan struct {
	Machine              Machine
	Scratch, Repo, State string
	Journal              string
	Guard                bool
	FreezeDeadline       time.Duration
}

// guardArg makes of the test program a guard.
const guardArg = "guard-of-a-frozen-guest"

var errWrap = errors.New("the test wants it to fail")

// failing is a disk that cannot be read.
func failing(_ context.Context, _ hikae.Disk, img pipe.Image) (pipe.Image, error) {
	img.Close()
	return nil, errWrap
}

func victim() int {
	if err := victimBackup(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func victimBackup() error {
	var plan victimPlan
	if err := json.Unmarshal([]byte(os.Getenv(victimEnv)), &plan); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	st, err := dirstore.Open(plan.Repo)
	if err != nil {
		return err
	}
	r, err := repo.Open(ctx, st, nil, &repo.OpenOptions{StateDir: plan.State})
	if err != nil {
		return err
	}
	defer r.Close()
	journal, err := hikae.OpenFileJournal(plan.Journal)
	if err != nil {
		return err
	}
	defer journal.Close()
	opts := &Options{Scratch: plan.Scratch}
	if plan.Guard {
		opts.Guard = ProcessGuard(os.Args[0], guardArg)
	}
	_, err = job.Backup(ctx, New([]Machine{plan.Machine}, opts), "", r, &job.BackupOptions{Journal: journal, FreezeDeadline: plan.FreezeDeadline})
	return err
}
