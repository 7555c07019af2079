package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

// settings are the command line.
type settings struct {
	run     string
	n       int
	seed    uint64
	timeout time.Duration
}

func main() {
	var set settings
	flag.StringVar(&set.run, "run", "", "which tests are asked, as go test takes it")
	flag.IntVar(&set.n, "n", 50, "how many mutants, of all files together; 0: all")
	flag.Uint64Var(&set.seed, "seed", uint64(time.Now().UnixNano()), "draws the mutants")
	flag.DurationVar(&set.timeout, "timeout", 2*time.Minute, "how long the tests may take for one mutant")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := mutate(ctx, set, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// tally counts what became of the mutants.
type tally struct{ killed, survived, broken int }

func (t tally) String() string {
	share := 0.0
	if n := t.killed + t.survived; n > 0 {
		share = 100 * float64(t.killed) / float64(n)
	}
	return fmt.Sprintf("%d killed, %d survived (%.0f %%), %d do not compile", t.killed, t.survived, share, t.broken)
}

func mutate(ctx context.Context, set settings, paths []string) error {
	var all []mutant
	for _, path := range paths {
		list, err := mutantsOf(path)
		if err != nil {
			return err
		}
		all = append(all, list...)
	}
	if len(all) == 0 {
		return errors.New("there is nothing to change in the files that were named")
	}
	rng := rand.New(rand.NewPCG(set.seed, 0))
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if set.n > 0 {
		all = all[:min(set.n, len(all))]
	}
	fmt.Printf("seed %d, %d mutants\n", set.seed, len(all))
	if err := sound(ctx, set, filepath.Dir(paths[0])); err != nil {
		return err
	}
	var sum tally
	for _, m := range all {
		switch fate, err := try(ctx, set, m); {
		case err != nil:
			return err
		case fate == broken:
			sum.broken++
		case fate == killed:
			sum.killed++
		default:
			sum.survived++
			fmt.Printf("survived: %s: %s\n", m.at, m.what)
		}
	}
	fmt.Println(sum)
	return nil
}

// fate is what became of a mutant.
type fate int

const (
	survived fate = iota
	killed
	broken
)

// sound runs the tests on the code as it is: what fails then says nothing about mutants.
func sound(ctx context.Context, set settings, dir string) error {
	if out, err := test(ctx, set, dir, ""); err != nil {
		return fmt.Errorf("the tests fail without any change: %w\n%s", err, out)
	}
	return nil
}

// try compiles a mutant by an overlay, and runs the tests.
func try(ctx context.Context, set settings, m mutant) (fate, error) {
	dir, err := os.MkdirTemp("", "hikae-mutant-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	changed, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	whole, err := filepath.Abs(m.path)
	if err != nil {
		return 0, err
	}
	doc, err := json.Marshal(map[string]map[string]string{"Replace": {whole: changed}})
	if err == nil {
		err = errors.Join(os.WriteFile(changed, m.code, 0o600), os.WriteFile(overlay, doc, 0o600))
	}
	if err != nil {
		return 0, err
	}
	out, err := test(ctx, set, filepath.Dir(m.path), overlay)
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case err == nil:
		return survived, nil
	case strings.Contains(out, "[build failed]") || strings.Contains(out, "[setup failed]"):
		return broken, nil
	}
	return killed, nil
}

// test runs the tests of one folder. The tests' own deadline comes first, so that the process tree ends by itself.
func test(ctx context.Context, set settings, dir, overlay string) (string, error) {
	args := []string{"test", "-count=1", "-failfast", "-vet=off", "-timeout", set.timeout.String(), "-run", set.run}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*set.timeout+time.Minute)
	defer cancel()
	if !filepath.IsAbs(dir) {
		dir = "./" + dir
	}
	out, err := exec.CommandContext(ctx, "go", append(args, dir)...).CombinedOutput()
	return string(out), err
}
