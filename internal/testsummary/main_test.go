package main

import (
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
