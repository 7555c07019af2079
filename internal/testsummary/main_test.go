package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// summarize runs the whole program but for its exit.
func summarize(t *testing.T, lines ...string) (text string, failed bool) {
	t.Helper()
	s := newSummary()
	require.NoError(t, s.read(strings.NewReader(strings.Join(lines, "\n"))))
	s.finish()
	var b strings.Builder
	s.print(&b)
	return b.String(), s.failed()
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

func TestPassFailSkip(t *testing.T) {
	text, failed := summarize(t,
		`{"Action":"start","Package":"p"}`,
		`{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.5}`,
		`{"Action":"output","Package":"p","Test":"TestB","Output":"=== RUN   TestB\n    b_test.go:3: wrong: 1\n"}`,
		`{"Action":"fail","Package":"p","Test":"TestB","Elapsed":2}`,
		`{"Action":"output","Package":"p","Test":"TestC","Output":"    c_test.go:7: needs qemu-img\n"}`,
		`{"Action":"skip","Package":"p","Test":"TestC"}`,
		`{"Action":"fail","Package":"p"}`)
	require.True(t, failed)
	require.Equal(t, "1 passed, 1 failed, 1 skipped", lastLine(text), "the package's own fail is not counted again")
	require.Contains(t, text, "b_test.go:3: wrong: 1")
	require.NotContains(t, text, "=== RUN")
	require.Contains(t, text, "needs qemu-img: 1 tests, such as p TestC")
	require.Less(t, strings.Index(text, "2.00 s  p TestB"), strings.Index(text, "0.50 s  p TestA"))
}

func TestAllPassed(t *testing.T) {
	text, failed := summarize(t,
		`go: downloading something`,
		`{"Action":"pass","Package":"p","Test":"TestA"}`,
		`{"Action":"pass","Package":"p"}`,
		`{"Action":"skip","Package":"without/tests"}`)
	require.False(t, failed)
	require.Equal(t, "1 passed, 0 failed, 0 skipped", lastLine(text))
}

func TestBuildFailure(t *testing.T) {
	text, failed := summarize(t,
		`{"ImportPath":"p [p.test]","Action":"build-output","Output":"./a.go:3:1: undefined: x\n"}`,
		`{"ImportPath":"p [p.test]","Action":"build-fail"}`,
		`{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`)
	require.True(t, failed)
	require.Contains(t, text, "undefined: x")
	require.Equal(t, "0 passed, 1 failed, 0 skipped", lastLine(text))
}

func TestPanicAndKill(t *testing.T) {
	t.Run("a panic outside a test", func(t *testing.T) {
		text, failed := summarize(t,
			`{"Action":"output","Package":"p","Test":"TestA","Output":"panic: oh\n"}`,
			`{"Action":"fail","Package":"p"}`)
		require.True(t, failed)
		require.Contains(t, text, "never ended: TestA")
		require.Contains(t, text, "panic: oh")
	})
	t.Run("the stream ends early", func(t *testing.T) {
		text, failed := summarize(t,
			`{"Action":"start","Package":"p"}`,
			`{"Action":"pass","Package":"p","Test":"TestA"}`)
		require.True(t, failed)
		require.Contains(t, text, "the stream ended before the package did")
	})
	t.Run("only foreign lines", func(t *testing.T) {
		text, failed := summarize(t, `go: no such tool`)
		require.True(t, failed)
		require.Contains(t, text, "no such tool")
	})
	t.Run("nothing at all", func(t *testing.T) {
		require.Error(t, newSummary().read(strings.NewReader("")))
	})
}

func TestSkipReason(t *testing.T) {
	for output, want := range map[string]string{
		"=== RUN   TestX\n    x_test.go:9: needs strace\n--- SKIP: TestX (0.00s)\n": "needs strace",
		"--- SKIP: TestX (0.00s)\n":  "no reason given",
		"    helper.go:1: a: b: c\n": "a: b: c",
	} {
		require.Equal(t, want, skipReason(output))
	}
}

// A test that fails gets one more try alone: if that passes, it is shown and does not count; if not, both outputs are there.
func TestAgain(t *testing.T) {
	module := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(module, name), []byte(text), 0o600))
	}
	write("go.mod", "module m\n\ngo 1.21\n")
	write("m_test.go", `package m

import (
	"os"
	"testing"
)

func TestOnce(t *testing.T) {
	t.Run("within", func(t *testing.T) {
		if _, err := os.Stat("been"); err != nil {
			os.WriteFile("been", nil, 0o600)
			t.Fatal("too slow")
		}
	})
}

func TestAlways(t *testing.T) {
	if os.Getenv("ALWAYS") != "" {
		t.Fatal("wrong for good")
	}
}

func TestRaces(t *testing.T) {
	if os.Getenv("RACES") != "" {
		t.Fatal("WARNING: DATA RACE")
	}
}
`)
	t.Chdir(module)
	set := settings{again: "go test -json", command: []string{"go", "test", "-json", "-count=1", "./..."}}
	try := func() (text string, failed bool) {
		require.NoError(t, os.RemoveAll("been"))
		var b strings.Builder
		ok, err := set.summarize(strings.NewReader("what it must not read"), &b)
		require.NoError(t, err)
		return b.String(), !ok
	}
	text, failed := try()
	require.False(t, failed, text)
	require.Contains(t, text, "failed, and passed alone: m TestOnce/within")
	require.Contains(t, text, "too slow")
	require.Equal(t, "2 passed, 0 failed, 0 skipped, 2 passed only alone", lastLine(text))

	t.Setenv("ALWAYS", "1")
	text, failed = try()
	require.True(t, failed)
	require.Equal(t, 2, strings.Count(text, "wrong for good"), text)
	require.Contains(t, text, "passed alone: m TestOnce/within")
	require.Equal(t, "1 passed, 1 failed, 0 skipped, 2 passed only alone", lastLine(text))

	t.Setenv("RACES", "1")
	text, failed = try()
	require.True(t, failed)
	require.NotContains(t, text, "passed alone", "with a race among them nothing is tried again")
}

// go test can fail without a test that did.
func TestStatusUnexplained(t *testing.T) {
	pass := `echo '{"Action":"pass","Package":"p","Test":"TestA"}{"Action":"pass","Package":"p"}' | sed 's/}{/}\n{/'; `
	fail := `echo '{"Action":"fail","Package":"p","Test":"TestA"}{"Action":"fail","Package":"p"}' | sed 's/}{/}\n{/'; `
	for _, c := range []struct {
		script   string
		ok, told bool
	}{
		{pass + "exit 0", true, false},
		{pass + "exit 1", false, true},
		{pass + "kill -9 $$", false, true},
		{fail + "exit 1", false, false},
		{fail + "exit 0", false, false},
		{"exit 0", false, true},
	} {
		var b strings.Builder
		ok, err := (&settings{command: []string{"sh", "-c", c.script}}).summarize(nil, &b)
		require.Equal(t, c.told, err != nil, "%s: %v", c.script, err)
		require.Equal(t, c.ok, ok && err == nil, c.script)
	}
	_, err := (&settings{command: []string{filepath.Join(t.TempDir(), "no such program")}}).summarize(nil, io.Discard)
	require.Error(t, err)
}

// Where something else than a test failed, or many tests did, there is no second try.
func TestNotAgain(t *testing.T) {
	never := func(key) (string, error) { t.Fatal("it was tried again"); return "", nil }
	var many []result
	for i := range mostAgain + 1 {
		many = append(many, result{key: key{"p", fmt.Sprint("Test", i)}})
	}
	for _, fails := range [][]result{
		many,
		{{key: key{"p", "TestA"}}, {key: key{"q", ""}}},
		{{key: key{"p", "TestA"}, output: "panic: runtime error"}},
	} {
		s := newSummary()
		s.fails = slices.Clone(fails)
		s.again(never)
		require.Equal(t, fails, s.fails)
	}
	few := []result{{key: key{"p", "TestA"}}}
	s := newSummary()
	s.fails, s.whole = slices.Clone(few), []result{{key: key{"p", ""}, output: "WARNING: DATA RACE"}}
	s.again(never)
	require.Equal(t, few, s.fails)
	s = newSummary()
	s.fails = slices.Clone(few)
	into(s.output, key{"p", "TestB"}).WriteString("=== RUN   TestB\n")
	s.again(never)
	require.Equal(t, few, s.fails)
}
