//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// needs are the programs without which there is nothing to measure, with the Debian package that has each.
var needs = map[string]string{
	"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs", "e2fsck": "e2fsprogs",
	"restic": "restic", "borg": "borgbackup", "qemu-img": "qemu-utils",
}

// options are the command line.
type options struct {
	dir    string // fixture and repositories
	hikae  string // the program under test
	out    string // the page to write; empty: none
	rounds int
	blocks int // blocks of the repository for the start-up test; 0: not run
	peers  bool
	report bool
	only   string // a part; empty: all but the parts that are asked for by name
}

func main() {
	opts := options{}
	flag.StringVar(&opts.dir, "dir", defaultDir(), "where the input and the repositories are kept (needs 25 GB)")
	flag.StringVar(&opts.hikae, "hikae", "bin/hikae", "the program under test")
	flag.StringVar(&opts.out, "out", "docs/benchmarks.md", "the page to write")
	flag.IntVar(&opts.rounds, "rounds", 3, "how often each step is run")
	flag.IntVar(&opts.blocks, "blocks", 1_000_000, "blocks in the repository of the start-up test; 0 leaves it out")
	flag.BoolVar(&opts.peers, "peers-only", false, "run the peers only, write no page")
	flag.BoolVar(&opts.report, "report-only", false, "write the page again from the last run's results")
	flag.StringVar(&opts.only, "only", "", "run one part alone: kvm, virtual machines and NBD; repository, prune, verify, parity and stripes, with -blocks small blobs; busy, exclusions on a mounted disk (prints only); wan, a bad line (prints only)")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, opts); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func defaultDir() string {
	if dir := os.Getenv("HIKAE_BENCH_DIR"); dir != "" {
		return dir
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "hikae-bench")
	}
	return filepath.Join(cache, "hikae-bench")
}

func run(ctx context.Context, opts options) error {
	results := filepath.Join(opts.dir, "results.json")
	if opts.report {
		return rewrite(results, opts.out)
	}
	if err := preflight(opts); err != nil {
		return err
	}
	unlock, err := lock(opts.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if opts.only == "repository" {
		return runRepository(ctx, opts)
	}
	fx, err := openFixture(ctx, filepath.Join(opts.dir, "fixture"))
	if err != nil {
		return fmt.Errorf("make the input: %w", err)
	}
	switch opts.only {
	case "kvm":
		return runKVM(ctx, opts, fx)
	case "busy":
		return runBusy(ctx, opts, fx)
	case "wan":
		return runWAN(ctx, opts, fx)
	case "":
	default:
		return fmt.Errorf("-only %s: the parts are kvm, repository, busy and wan", opts.only)
	}
	res, err := measureAll(ctx, opts, fx)
	if err != nil {
		return err
	}
	if err := writeJSON(results, res); err != nil {
		return err
	}
	fmt.Fprint(os.Stderr, figures(res))
	if opts.peers || opts.out == "" {
		return nil
	}
	return writePage(opts.out, page(res))
}

// writePage writes the page, and keeps of the old one the parts that are run by themselves.
func writePage(out, text string) error {
	old, err := os.ReadFile(out)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, heading := range []string{kvmHeading, repositoryHeading} {
		if section := sectionOf(string(old), heading); section != "" {
			text = withSection(text, section)
		}
	}
	return os.WriteFile(out, []byte(text), 0o644)
}

// runKVM measures the part for virtual machines and NBD, and puts it into the page.
func runKVM(ctx context.Context, opts options, fx *fixture) error {
	b, err := measureKVM(ctx, opts, fx)
	if err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(opts.dir, "kvm.json"), b.results); err != nil {
		return err
	}
	return putSection(opts, b.section(time.Now()))
}

// runRepository measures pruning, reading and writing of a repository beside others, and puts it into the page. It needs no input.
func runRepository(ctx context.Context, opts options) error {
	load := loadAverage()
	results, err := measureRepository(ctx, opts)
	if err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(opts.dir, "repository.json"), results); err != nil {
		return err
	}
	return putSection(opts, repositorySection(results, opts, time.Now(), load))
}

func putSection(opts options, section string) error {
	fmt.Fprint(os.Stderr, section)
	if opts.out == "" {
		return nil
	}
	old, err := os.ReadFile(opts.out)
	if err != nil {
		return err
	}
	return os.WriteFile(opts.out, []byte(withSection(string(old), section)), 0o644)
}

// lock keeps two runs out of one folder: they would remove each other's files.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: another run is at work there: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// rewrite makes the page from results that were kept.
func rewrite(results, out string) error {
	data, err := os.ReadFile(results)
	if err != nil {
		return err
	}
	res := &record{}
	if err := json.Unmarshal(data, res); err != nil {
		return fmt.Errorf("%s: %w", results, err)
	}
	return writePage(out, page(res))
}

// preflight says what is missing before anything is downloaded or measured.
func preflight(opts options) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: a Debian root file system has files of many owners")
	}
	var missing []string
	for program, pkg := range needs {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing programs, install: %s", strings.Join(missing, " "))
	}
	if _, err := os.Stat(opts.hikae); err != nil && !opts.peers {
		return fmt.Errorf("no program to measure (make build): %w", err)
	}
	return enoughSpace(opts.dir)
}

// enoughSpace: the fixture takes 8 GB, the repositories of one round 8 GB, the largest restore 8 GB.
func enoughSpace(dir string) error {
	const need = 25 << 30
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return fmt.Errorf("%s: %s free where %s are needed", dir, size(free), size(need))
	}
	return nil
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
