package tidy

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// root is the folder of go.mod, as seen from here.
const root = "../.."

// The tables of exceptions. Each has its reason.
var (
	// longFiles may have more than maxLines lines.
	longFiles = map[string]string{}
	// withoutTests are packages that no test file stands beside.
	withoutTests = map[string]string{
		"repo/store/dirstore/vfs/vfstest": "the tests of vfs and dirstore run all of it",
		"kvm/kvmtest/fxguest":             "it is the init of a guest; the tests of kvmtest boot it",
	}
)

const maxLines = 900

// requirements is the number of rows, R001 to the last.
const requirements = 204

// file is one text file of the tree.
type file struct {
	name string // from the root, with slashes
	data []byte
}

func (f file) isGo() bool   { return strings.HasSuffix(f.name, ".go") }
func (f file) isTest() bool { return strings.HasSuffix(f.name, "_test.go") }

// tree reads the whole tree once: every file but binaries, test data and what git does not keep.
var tree = sync.OnceValues(func() ([]file, error) {
	var files []file
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() && name != root && (base == "testdata" || base == "bin" || base == ".git") {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(name)
		if err != nil || bytes.IndexByte(data, 0) >= 0 {
			return err
		}
		rel, err := filepath.Rel(root, name)
		files = append(files, file{filepath.ToSlash(rel), data})
		return err
	})
	return files, err
})

func files(t *testing.T) []file {
	t.Helper()
	all, err := tree()
	require.NoError(t, err)
	require.Greater(t, len(all), 10, "the tree was not found")
	return all
}

// source is one parsed Go file.
type source struct {
	file
	*ast.File
}

var fileSet = token.NewFileSet()

var parsed = sync.OnceValues(func() ([]source, error) {
	all, err := tree()
	if err != nil {
		return nil, err
	}
	var out []source
	for _, f := range all {
		if !f.isGo() {
			continue
		}
		tree, err := parser.ParseFile(fileSet, f.name, f.data, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		out = append(out, source{f, tree})
	}
	return out, nil
})

func sources(t *testing.T) []source {
	t.Helper()
	all, err := parsed()
	require.NoError(t, err)
	return all
}

func TestFormatted(t *testing.T) {
	t.Parallel()
	gofmt, err := exec.LookPath("gofmt")
	if err != nil {
		t.Skip("needs gofmt")
	}
	var names []string
	for _, f := range files(t) {
		if f.isGo() {
			names = append(names, f.name)
		}
	}
	cmd := exec.CommandContext(t.Context(), gofmt, append([]string{"-l"}, names...)...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Empty(t, string(out), "run gofmt -w on these")
}

// forbidden are words that say that a file was left unfinished or was written for one machine.
var forbidden = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`), "do it, or write an issue"},
	{regexp.MustCompile(`(?m)(^|[\s"'` + "`" + `(=:])/(wo` + `rk|tmp/pro` + `mpts)/`), "no path of one machine"},
	{regexp.MustCompile(`GO` + `PROXY=|GOSUM` + `DB=|index-` + `url|registry=ht` + `tp`), "no package registry: each machine has its own settings"},
	{regexp.MustCompile(`https?://(10|192\.168|172\.(1[6-9]|2\d|3[01]))\.`), "no host of one network"},
}

// allowedWords are files in which a forbidden pattern is what the text is about, with the reason.
var allowedWords = map[string]string{}

func TestNothingLeftBehind(t *testing.T) {
	t.Parallel()
	for _, f := range files(t) {
		if allowedWords[f.name] != "" || f.name == "go.sum" || strings.HasSuffix(f.name, "/go.sum") {
			continue
		}
		for _, bad := range forbidden {
			for _, at := range bad.pattern.FindAllIndex(f.data, -1) {
				line := 1 + bytes.Count(f.data[:at[1]], []byte("\n"))
				t.Errorf("%s:%d: %q: %s", f.name, line, f.data[at[0]:at[1]], bad.instead)
			}
		}
	}
}

func TestLength(t *testing.T) {
	t.Parallel()
	for _, f := range files(t) {
		lines := bytes.Count(f.data, []byte("\n"))
		if f.isGo() && lines > maxLines && longFiles[f.name] == "" {
			t.Errorf("%s has %d lines: a file is about one noun; split it, or give its reason in longFiles", f.name, lines)
		}
	}
}

// Tests in bubbles go through internal/bubble, which says why.
func TestBubbles(t *testing.T) {
	for _, f := range files(t) {
		if f.isGo() && !strings.HasPrefix(f.name, "internal/") && bytes.Contains(f.data, []byte("synctest.Test(")) {
			t.Errorf("%s: call bubble.Test instead of synctest.Test", f.name)
		}
	}
}

// TestPackages: every package says what it is and is tested.
func TestPackages(t *testing.T) {
	t.Parallel()
	type state struct{ code, comment, test bool }
	packages := map[string]*state{}
	for _, s := range sources(t) {
		dir := path.Dir(s.name)
		if packages[dir] == nil {
			packages[dir] = &state{}
		}
		p := packages[dir]
		p.test = p.test || s.isTest()
		p.code = p.code || !s.isTest()
		p.comment = p.comment || s.Doc != nil && !s.isTest()
	}
	for dir, p := range packages {
		if p.code && !p.comment {
			t.Errorf("%s: no package comment: say what it is, when to reach for it and what to know first", dir)
		}
		if p.code && !p.test && withoutTests[dir] == "" {
			t.Errorf("%s: no test file: write one, or give the reason in withoutTests", dir)
		}
		if p.test && withoutTests[dir] != "" {
			t.Errorf("%s: has tests: take it out of withoutTests", dir)
		}
	}
}

var rowName = regexp.MustCompile(`\bR(\d{3})\b`)

// TestRequirementRows: a row that is named exists, so that grep for a row finds what holds it.
func TestRequirementRows(t *testing.T) {
	t.Parallel()
	held := map[int]bool{}
	for _, f := range files(t) {
		if f.name == "internal/tidy/tidy_test.go" {
			continue
		}
		for _, m := range rowName.FindAllSubmatch(f.data, -1) {
			n, err := strconv.Atoi(string(m[1]))
			require.NoError(t, err)
			if n < 1 || n > requirements {
				t.Errorf("%s names R%03d; the rows are R001 to R%03d", f.name, n, requirements)
			}
			if f.isTest() {
				held[n] = true
			}
		}
	}
	t.Logf("%d of %d requirement rows are named in a test", len(held), requirements)
}

// TestFuzzTargets: a target without seeds explores nothing, and nobody notices.
func TestFuzzTargets(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		for _, decl := range s.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || !s.isTest() || fn.Recv != nil || !isFuzzTarget(fn) {
				continue
			}
			corpus, _ := os.ReadDir(filepath.Join(root, path.Dir(s.name), "testdata", "fuzz", fn.Name.Name))
			if len(corpus) == 0 && !addsSeeds(fn) {
				t.Errorf("%s: %s has no seeds: add some by f.Add or in testdata/fuzz/%s", s.name, fn.Name.Name, fn.Name.Name)
			}
		}
	}
}

func isFuzzTarget(fn *ast.FuncDecl) bool {
	params := fn.Type.Params.List
	if !strings.HasPrefix(fn.Name.Name, "Fuzz") || len(params) != 1 || len(params[0].Names) != 1 {
		return false
	}
	star, ok := params[0].Type.(*ast.StarExpr)
	if !ok {
		return false
	}
	sel, ok := star.X.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "F"
}

// addsSeeds looks for f.Add, or for f handed to a helper that is named for seeding.
func addsSeeds(fn *ast.FuncDecl) bool {
	f, found := fn.Type.Params.List[0].Names[0].Name, false
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch fun := call.Fun.(type) {
		case *ast.SelectorExpr:
			x, ok := fun.X.(*ast.Ident)
			found = found || ok && x.Name == f && fun.Sel.Name == "Add"
		case *ast.Ident:
			named := strings.Contains(strings.ToLower(fun.Name), "seed") || strings.HasPrefix(fun.Name, "add")
			found = found || named && slices.ContainsFunc(call.Args, func(a ast.Expr) bool {
				x, ok := a.(*ast.Ident)
				return ok && x.Name == f
			})
		}
		return true
	})
	return found
}

func position(n ast.Node) string {
	p := fileSet.Position(n.Pos())
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}
