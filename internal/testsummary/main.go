// Testsummary reads what go test -json prints and says what it means: the failures in full, the slowest tests, what
// was skipped and why, and one last line with the counts.
//
//	go test -json ./... 2>&1 | testsummary
//	testsummary go test -json ./...
//
// Run by it, go test's own exit status counts too: where that is a failure, and no test is known to have failed, it stays one.
//
// Some tests bound how long something may take by the clock, so that a hang is found. On a machine that does other things
// such a bound can strike a test that is right. With -again, which takes the words of the go test command, each of a few
// tests that failed runs once more, alone, when all the others have ended; one that then passes is not counted as failed,
// but it is printed with what it said, and counted on the last line. A test that raced, a panic, a deadline of the whole
// package, a build that failed and a package that never ended get no second try.
//
// It ends with 0 only when every package was built and every test passed. A stream that ends before a package has
// said how it went is a failure: a killed go test must not look like a short one.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

func main() {
	var set settings
	flag.StringVar(&set.notes, "notes", "", "file with a line for each thing that was not run; it is shown with the skips")
	flag.StringVar(&set.again, "again", "", "command that runs tests, such as \"go test -race -json\", for a second try of the few that failed")
	flag.Parse()
	set.command = flag.Args()
	ok, err := set.summarize(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

// settings are the command line.
type settings struct {
	notes, again string
	command      []string // whose output is read; none: the standard input is
}

// summarize reads what tests print, prints what it means, and reports whether all is well.
func (set *settings) summarize(in io.Reader, out io.Writer) (ok bool, err error) {
	s := newSummary()
	if text, err := os.ReadFile(set.notes); err == nil {
		s.notes = strings.TrimSpace(string(text))
	}
	if len(set.command) > 0 {
		s.status, err = s.readCommand(set.command)
	} else {
		err = s.read(in)
	}
	if err != nil {
		return false, err
	}
	s.finish()
	if set.again != "" {
		s.again(runner(strings.Fields(set.again)))
	}
	s.print(out)
	if s.unexplained() {
		return false, fmt.Errorf("%s: %w, and no test that failed explains it", strings.Join(set.command, " "), s.status)
	}
	return !s.failed(), nil
}

// readCommand runs a command and reads what it prints on both its outputs. status is how it exited.
func (s *summary) readCommand(command []string) (status, err error) {
	cmd := exec.Command(command[0], command[1:]...)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	readErr := s.read(r)
	_, _ = io.Copy(io.Discard, r)
	return cmd.Wait(), readErr
}

// unexplained: the command failed, and nothing that is known here did.
func (s *summary) unexplained() bool {
	_, exit := errors.AsType[*exec.ExitError](s.status)
	return s.status != nil && (!exit || len(s.fails)+len(s.second) == 0)
}

// event is one line of test2json, or of go build -json, which go test -json mixes in.
type event struct {
	Action      string
	Package     string
	Test        string
	Elapsed     float64 // seconds
	Output      string
	ImportPath  string // of a build that failed
	FailedBuild string // on a package's fail: the build that was missing
}

// key names a test, or a package where test is empty.
type key struct{ pkg, test string }

type result struct {
	key
	seconds float64
	output  string
}

// summary is what is known so far.
type summary struct {
	output  map[key]*strings.Builder // of what has not ended yet
	ended   map[string]bool          // packages that have said how they went
	seen    map[string]bool
	passed  int
	fails   []result
	second  []result // failed among the others, and passed alone
	skips   []result
	timed   []result
	whole   []result                    // packages, with how long their tests took
	builds  map[string]*strings.Builder // compiler output by import path
	foreign strings.Builder             // lines that are no event
	notes   string                      // what was not run at all
	status  error                       // how the command exited that was run; nil: well, or it was run by somebody else
}

func newSummary() *summary {
	return &summary{output: map[key]*strings.Builder{}, ended: map[string]bool{}, seen: map[string]bool{},
		builds: map[string]*strings.Builder{}}
}

// maxLine bounds one event; go test splits long output into many.
const maxLine = 64 << 20

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 1<<20), maxLine)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Action == "" {
			s.foreign.WriteString(lines.Text() + "\n")
			continue
		}
		s.add(e)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	if len(s.seen) == 0 && s.foreign.Len() == 0 {
		return errors.New("no events: go test did not run")
	}
	return nil
}

func (s *summary) add(e event) {
	k := key{e.Package, e.Test}
	if e.Package != "" {
		s.seen[e.Package] = true
	}
	switch e.Action {
	case "build-output":
		into(s.builds, e.ImportPath).WriteString(e.Output)
	case "output":
		into(s.output, k).WriteString(e.Output)
	case "pass", "fail", "skip":
		s.end(k, e)
	}
}

func into[K comparable](m map[K]*strings.Builder, k K) *strings.Builder {
	if m[k] == nil {
		m[k] = &strings.Builder{}
	}
	return m[k]
}

// end takes a verdict. A package's own skip means that it has no tests; its fail counts only where none of its tests
// failed, as with a panic outside a test or a data race at the end.
func (s *summary) end(k key, e event) {
	r := result{key: k, seconds: e.Elapsed, output: into(s.output, k).String()}
	delete(s.output, k)
	if k.test == "" {
		s.ended[k.pkg] = true
		s.whole = append(s.whole, r)
		if e.Action == "fail" && e.FailedBuild != "" {
			r.output += into(s.builds, e.FailedBuild).String()
		}
		if e.Action == "fail" && !slices.ContainsFunc(s.fails, func(f result) bool { return f.pkg == k.pkg }) {
			r.output = s.pending(k.pkg) + r.output
			s.fails = append(s.fails, r)
		}
		return
	}
	switch e.Action {
	case "pass":
		s.passed++
	case "fail":
		s.fails = append(s.fails, r)
	case "skip":
		s.skips = append(s.skips, r)
	}
	if !strings.Contains(k.test, "/") {
		s.timed = append(s.timed, r)
	}
}

// pending is the output of tests that never ended: where a panic or a deadline struck.
func (s *summary) pending(pkg string) string {
	var b strings.Builder
	for k, out := range s.output {
		if k.pkg == pkg && k.test != "" {
			fmt.Fprintf(&b, "--- never ended: %s\n%s", k.test, out)
		}
	}
	return b.String()
}

// finish turns packages that never ended into failures.
func (s *summary) finish() {
	for pkg := range s.seen {
		if !s.ended[pkg] {
			k := key{pkg: pkg}
			out := s.pending(pkg) + into(s.output, k).String() + "the stream ended before the package did\n"
			s.fails = append(s.fails, result{key: k, output: out})
		}
	}
	slices.SortStableFunc(s.fails, func(a, b result) int { return cmp.Compare(a.pkg, b.pkg) })
}

// failed: foreign lines alone are no failure (a download is announced that way), unless nothing else came.
func (s *summary) failed() bool { return len(s.fails) > 0 || len(s.ended) == 0 }

func (s *summary) print(w io.Writer) {
	if s.foreign.Len() > 0 {
		fmt.Fprintf(w, "%s", s.foreign.String())
	}
	for _, f := range s.fails {
		fmt.Fprintf(w, "=== FAIL %s %s\n%s\n", f.pkg, f.test, withoutProgress(f.output))
	}
	for _, f := range s.second {
		fmt.Fprintf(w, "=== failed, and passed alone: %s %s\n%s\n", f.pkg, f.test, withoutProgress(f.output))
	}
	printSlowest(w, "tests", s.timed)
	printSlowest(w, "packages", s.whole)
	s.printSkips(w)
	if s.notes != "" {
		fmt.Fprintf(w, "Not run, or not to be had here:\n  %s\n", strings.ReplaceAll(s.notes, "\n", "\n  "))
	}
	alone := ""
	if len(s.second) > 0 {
		alone = fmt.Sprintf(", %d passed only alone", len(s.second))
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped%s\n", s.passed, len(s.fails), len(s.skips), alone)
}

// withoutProgress drops the lines by which go test says that a test runs, waits and goes on.
func withoutProgress(output string) string {
	var b strings.Builder
	for line := range strings.Lines(output) {
		if !strings.HasPrefix(line, "=== ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// printSlowest prints the ten that took longest, beside whatever else ran.
func printSlowest(w io.Writer, what string, timed []result) {
	slices.SortStableFunc(timed, func(a, b result) int { return cmp.Compare(b.seconds, a.seconds) })
	fmt.Fprintf(w, "Slowest %s:\n", what)
	for _, r := range timed[:min(10, len(timed))] {
		fmt.Fprintf(w, "  %7.2f s  %s %s\n", r.seconds, r.pkg, r.test)
	}
}

// printSkips groups by reason, so that one missing program is one line and not forty.
func (s *summary) printSkips(w io.Writer) {
	if len(s.skips) == 0 {
		return
	}
	byReason := map[string][]string{}
	for _, r := range s.skips {
		reason := skipReason(r.output)
		byReason[reason] = append(byReason[reason], r.pkg+" "+r.test)
	}
	fmt.Fprintln(w, "Skipped:")
	reasons := make([]string, 0, len(byReason))
	for reason := range byReason {
		reasons = append(reasons, reason)
	}
	slices.Sort(reasons)
	for _, reason := range reasons {
		tests := byReason[reason]
		fmt.Fprintf(w, "  %s: %d tests, such as %s\n", reason, len(tests), tests[0])
	}
}

// skipReason takes the text of t.Skip out of a line such as "    disk_test.go:12: needs qemu-img".
func skipReason(output string) string {
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		if _, text, ok := strings.Cut(line, ".go:"); ok {
			if _, text, ok = strings.Cut(text, ": "); ok {
				return text
			}
		}
		return line
	}
	return "no reason given"
}
