package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/internal/fatdisk"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/report"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/vmware"
)

// vmName is what the sample machine is called in the repository.
const vmName = "sample"

// story is one run, chapter by chapter.
type story struct {
	out  io.Writer
	dir  string
	size int64

	number     int
	passphrase string
	lab        *lab
	store      store.Store
	repo       *repo.Repository
	sessions   *job.Sessions
	backups    []job.Result
}

func (s *story) path(name string) string { return filepath.Join(s.dir, name) }
func (s *story) disk() string            { return s.path("disk.raw") }
func (s *story) asItWas(day int) string  { return s.path(fmt.Sprintf("as-it-was-on-day-%d.raw", day)) }

// chapter starts a chapter, say goes on in it.
func (s *story) chapter(format string, args ...any) {
	s.number++
	fmt.Fprintf(s.out, "\n%d. "+format+"\n", append([]any{s.number}, args...)...)
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(s.out, "   "+format+"\n", args...) }

func (s *story) makeDisk(ctx context.Context) error {
	fmt.Fprintf(s.out, "Hikae quickstart, in %s\n", s.dir)
	d, err := fatdisk.Sample(s.disk(), s.size, 1)
	if err != nil {
		return err
	}
	defer d.Close()
	files, err := d.Files()
	if err != nil {
		return err
	}
	total := int64(0)
	for _, f := range files {
		total += f.Size
	}
	if s.lab, err = newLab(ctx, s.disk(), s.size); err != nil {
		return err
	}
	s.chapter("A fake vSphere in this process, with a small machine; what its guest has on its disk is in disk.raw, too")
	s.say("%s with a partition table and a FAT16 volume; %d files hold %s.", size(s.size), len(files), size(total))
	return s.remember(ctx, 1)
}

// remember keeps a copy of the disk, to compare with later.
func (s *story) remember(ctx context.Context, day int) error {
	img, err := diskfile.Open(s.disk(), nil)
	if err != nil {
		return err
	}
	defer img.Close()
	t, err := diskfile.Create(s.asItWas(day), img.Size(), nil)
	if err != nil {
		return err
	}
	defer t.Close()
	if _, err := pipe.Copy(ctx, t, img, nil); err != nil {
		return err
	}
	return t.Commit(ctx)
}

func (s *story) makeRepository(ctx context.Context) error {
	s.passphrase = strings.ToLower(rand.Text()[:16])
	st, err := dirstore.Init(s.path("repository"))
	if err != nil {
		return err
	}
	s.store = st
	if s.repo, err = repo.Init(ctx, st, repo.Passphrase(s.passphrase), nil, &repo.OpenOptions{
		StateDir: s.path("state"), CacheDir: s.dir,
	}); err != nil {
		return err
	}
	if s.sessions, err = job.OpenSessions(s.path("state/sessions")); err != nil {
		return err
	}
	p := s.repo.Params()
	s.chapter("A repository: repository/")
	s.say("Blocks of %s, encrypted, with %.0f %% of parity. The passphrase, made up for this run, is %s.",
		size(int64(p.BlockSize)), float64(p.ParityPermille)/10, s.passphrase)
	return nil
}

func (s *story) backup(ctx context.Context) (job.Result, error) {
	vm, err := s.lab.provider(ctx)
	if err != nil {
		return job.Result{}, err
	}
	r, err := job.Backup(ctx, vm, "", s.repo, &job.BackupOptions{Name: vmName, Sessions: s.sessions})
	if err != nil {
		return r, err
	}
	s.backups = append(s.backups, r)
	return r, nil
}

func (s *story) fullBackup(ctx context.Context) error {
	r, err := s.backup(ctx)
	if err != nil {
		return err
	}
	d := r.Disks[0]
	s.chapter("The first backup: point %s", short(r.Point))
	s.say("%s hold data and were read; the rest is zero and was skipped.", size(d.Read))
	s.say("They take %s in the repository, and %s of parity, after %.1f s.", size(r.Stored), size(r.Parity), r.Seconds)
	return nil
}

func (s *story) passDay(ctx context.Context) error {
	d, err := fatdisk.Open(s.disk())
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Pass(1); err != nil {
		return err
	}
	changed := int64(0)
	for _, r := range d.Written() {
		changed += r.Len
	}
	if err := s.lab.write(s.disk(), d.Written()); err != nil {
		return err
	}
	s.chapter("A day passes")
	s.say("A log grew, a program was updated, a picture came and one went: %s of the disk were written.", size(changed))
	return s.remember(ctx, 2)
}

func (s *story) incrementalBackup(ctx context.Context) error {
	r, err := s.backup(ctx)
	if err != nil {
		return err
	}
	d := r.Disks[0]
	s.chapter("The second backup, of %s blocks: point %s", d.Method, short(r.Point))
	s.say("The hypervisor tells what changed: %s were read.", size(d.Read))
	s.say("%s of it were new and take %s.", size(d.Moved), size(r.Stored))
	return nil
}

func (s *story) verify(ctx context.Context) error {
	start := time.Now()
	r, err := s.repo.Verify(ctx, &repo.VerifyOptions{DataPercent: 100})
	if err != nil {
		return err
	}
	if !r.OK {
		return fmt.Errorf("verify found damage in a new repository: %+v", r.Damaged)
	}
	s.chapter("Everything is verified")
	s.say("%d blocks in %d objects were decrypted, decoded and compared with their identity: all is well (%.1f s).",
		r.Checked.Blocks, r.Checked.Objects, time.Since(start).Seconds())
	return nil
}

func (s *story) restore(ctx context.Context) error {
	s.chapter("Both days come back")
	for i, b := range s.backups {
		day := i + 1
		name := fmt.Sprintf("restored-day-%d", day)
		took, err := s.restorePoint(ctx, b.Point, name)
		if err != nil {
			return err
		}
		if err := s.mustEqual(ctx, s.asItWas(day), name); err != nil {
			return err
		}
		s.say("A new VM %s from point %s in %.1f s: identical, byte for byte.", name, short(b.Point), took)
	}
	return nil
}

func (s *story) restorePoint(ctx context.Context, id, name string) (seconds float64, err error) {
	point, err := s.repo.Resolve(ctx, id)
	if err != nil {
		return 0, err
	}
	restorer, err := vmware.NewRestorer(s.lab.client, nil)
	if err != nil {
		return 0, err
	}
	r, err := job.Restore(ctx, s.repo, point, restorer, &job.RestoreOptions{Name: name, Sessions: s.sessions})
	return r.Seconds, err
}

// mustEqual compares a file with the disk of a VM.
func (s *story) mustEqual(ctx context.Context, a, b string) error {
	x, err := diskfile.Open(a, nil)
	if err != nil {
		return err
	}
	defer x.Close()
	y, err := s.lab.server.VM(b).Disk(0).Open("", false)
	if err != nil {
		return err
	}
	defer y.Close()
	diff, err := pipe.Compare(ctx, x, y, nil)
	if err == nil && len(diff) > 0 {
		err = fmt.Errorf("%s differs from %s: %v", b, a, diff[0])
	}
	return err
}

func (s *story) report(context.Context) error {
	s.chapter("The report of the second backup")
	records, err := s.sessions.List(0, nil)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(records, func(r job.Record) bool { return r.Session() == s.backups[1].Session })
	if i < 0 {
		return fmt.Errorf("session %s left no record", s.backups[1].Session)
	}
	var text bytes.Buffer
	if err := report.New(records[i], records).Text(&text); err != nil {
		return err
	}
	for line := range strings.Lines(text.String()) {
		fmt.Fprintf(s.out, "   %s", line)
	}
	var page bytes.Buffer
	if err := report.New(records[i], records).HTML(&page); err != nil {
		return err
	}
	s.say("The same as a page, while the folder is there: %s", s.path("report.html"))
	return os.WriteFile(s.path("report.html"), page.Bytes(), 0o600)
}

func (s *story) ending(keep bool) {
	name, repository, disk := "web1", "/backup/hikae", "/vm/web1.qcow2"
	if keep {
		fmt.Fprintf(s.out, "\nEverything is in %s. Try the command on it:\n\n", s.dir)
		name, repository, disk = vmName, s.path("repository"), s.disk()
		s.command("go install ./examples/hikae")
		s.command("export HIKAE_PASSWORD=%s HIKAE_STATE_DIR=%s", s.passphrase, s.path("state"))
	} else {
		fmt.Fprintf(s.out, "\nThe folder is removed now; with -keep it stays, to be looked at. On disks of your own:\n\n")
		s.command("go install ./examples/hikae")
		s.command("export HIKAE_PASSWORD='a good passphrase'")
		s.command("hikae init    %s", repository)
	}
	s.command("hikae backup  --repo %s --name %s %s", repository, name, disk)
	s.command("hikae points  --repo %s", repository)
	s.command("hikae restore --repo %s %s@latest --to restored.qcow2", repository, name)
	s.command("hikae verify  --repo %s --data all", repository)
	s.command("hikae report  latest --html report.html")
}

func (s *story) command(format string, args ...any) { fmt.Fprintf(s.out, "  "+format+"\n", args...) }

// close releases the repository, whatever became of the run.
func (s *story) close() error {
	var errs []error
	if s.repo != nil {
		errs = append(errs, s.repo.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.lab != nil {
		errs = append(errs, s.lab.close())
	}
	return errors.Join(errs...)
}

func short(id string) string { return id[:min(12, len(id))] }

// size is a number of bytes in words.
func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}
