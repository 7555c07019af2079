package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

const (
	mostAgain  = 5                // top-level tests; where more fail it is not the machine
	againLimit = 10 * time.Minute // for one
)

// again gives the tests that failed one more try, each alone, by run. It does so only if nothing else failed, and if they are few.
func (s *summary) again(run func(k key) (output string, err error)) {
	var tops []key
	for _, f := range s.fails {
		if f.test == "" || hopeless(f.output) {
			return
		}
		top, _, _ := strings.Cut(f.test, "/")
		if k := (key{f.pkg, top}); !slices.Contains(tops, k) {
			tops = append(tops, k)
		}
	}
	if len(tops) > mostAgain || s.inPackages(tops) {
		return
	}
	for _, k := range tops {
		of := func(f result) bool {
			return f.pkg == k.pkg && (f.test == k.test || strings.HasPrefix(f.test, k.test+"/"))
		}
		output, err := run(k)
		if err != nil {
			at := slices.IndexFunc(s.fails, func(f result) bool { return f.key == k })
			if at >= 0 {
				s.fails[at].output += fmt.Sprintf("And again alone (%v):\n%s", err, output)
			}
			continue
		}
		for _, f := range s.fails {
			if of(f) {
				s.second = append(s.second, f)
			}
		}
		s.fails = slices.DeleteFunc(s.fails, of)
	}
}

// inPackages reports whether something else went wrong in the packages of tests: a race that no test is blamed for, or a test that never ended.
func (s *summary) inPackages(tests []key) bool {
	for _, k := range tests {
		if s.pending(k.pkg) != "" || slices.ContainsFunc(s.whole, func(r result) bool { return r.pkg == k.pkg && hopeless(r.output) }) {
			return true
		}
	}
	return false
}

// hopeless: what a second try would only hide.
func hopeless(output string) bool {
	for _, sign := range []string{"DATA RACE", "race detected", "panic: ", "fatal error: ", "SIGSEGV"} {
		if strings.Contains(output, sign) {
			return true
		}
	}
	return false
}

// runner runs one test by a command such as "go test -race -json". What it prints is judged as everything else is; a command that
// finds no such test is an error.
func runner(command []string) func(k key) (string, error) {
	return func(k key) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), againLimit)
		defer cancel()
		args := append(slices.Clone(command[1:]), "-count=1", "-timeout", againLimit.String(), "-run", "^"+k.test+"$", k.pkg)
		cmd := exec.CommandContext(ctx, command[0], args...)
		cmd.WaitDelay = 10 * time.Second
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return "", err
		}
		if err := cmd.Start(); err != nil {
			return "", err
		}
		s := newSummary()
		readErr := s.read(out)
		_, _ = io.Copy(io.Discard, out)
		err = cmd.Wait()
		s.finish()
		var b strings.Builder
		for _, f := range s.fails {
			b.WriteString(withoutProgress(f.output))
		}
		switch {
		case readErr != nil:
			return b.String(), readErr
		case err != nil:
			return b.String(), err
		case s.failed() || s.passed == 0:
			return b.String(), fmt.Errorf("%d passed, %d failed", s.passed, len(s.fails))
		}
		return b.String(), nil
	}
}
