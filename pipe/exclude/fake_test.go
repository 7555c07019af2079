package exclude_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude"
	"github.com/hikae/hikae/pipe/exclude/fsys"
	"github.com/hikae/hikae/pipe/pipetest"
)

// fake is a file system that says what a test wants it to.
type fake struct {
	info  fsys.Info
	free  []fsys.Range
	nodes map[fsys.Node]*fakeNode
	on    func(ctx context.Context, op string) error
}

type fakeNode struct {
	attr    fsys.Attr
	entries []fsys.Entry
	runs    []fsys.Run
	data    []byte
}

// newFake has an empty root, on a volume of 16 MiB.
func newFake(kind string) *fake {
	f := &fake{info: fsys.Info{Kind: kind, Size: 16 * mib, BlockSize: 4096, Label: "fake"}, nodes: map[fsys.Node]*fakeNode{}}
	f.nodes[1] = &fakeNode{attr: fsys.Attr{Node: 1, Mode: fs.ModeDir, Links: 1}}
	return f
}

// add puts a file at a path; folders come with it. Without runs it gets one of its own.
func (f *fake) add(path string, mode fs.FileMode, runs ...fsys.Run) *fakeNode {
	at := f.nodes[1]
	names := strings.Split(path, "/")
	for i, name := range names {
		k := slices.IndexFunc(at.entries, func(e fsys.Entry) bool { return e.Name == name })
		if k < 0 {
			n := fsys.Node(len(f.nodes) + 1)
			m := mode
			if i < len(names)-1 {
				m = fs.ModeDir
			}
			f.nodes[n] = &fakeNode{attr: fsys.Attr{Node: n, Mode: m, Links: 1, Size: 8192}}
			at.entries = append(at.entries, fsys.Entry{Name: name, Node: n, Type: m.Type()})
			k = len(at.entries) - 1
		}
		at = f.nodes[at.entries[k].Node]
	}
	if runs == nil {
		runs = []fsys.Run{{File: 0, Len: 8192, Vol: int64(at.attr.Node) * 65536, Kind: fsys.Written}}
	}
	at.runs = runs
	return at
}

// link is one more name for a file.
func (f *fake) link(dir string, name string, n *fakeNode) {
	at := f.add(dir, fs.ModeDir)
	at.entries = append(at.entries, fsys.Entry{Name: name, Node: n.attr.Node})
	n.attr.Links++
}

func (f *fake) did(ctx context.Context, op string) error {
	if f.on != nil {
		if err := f.on(ctx, op); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (f *fake) Info() fsys.Info { return f.info }
func (f *fake) Root() fsys.Node { return 1 }

func each[T any](list []T, err error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, x := range list {
			if !yield(x, nil) {
				return
			}
		}
		var zero T
		if err != nil {
			yield(zero, err)
		}
	}
}

func (f *fake) Free(ctx context.Context) iter.Seq2[fsys.Range, error] {
	return each(f.free, f.did(ctx, "free"))
}

func (f *fake) ReadDir(ctx context.Context, dir fsys.Node) iter.Seq2[fsys.Entry, error] {
	return each(f.nodes[dir].entries, f.did(ctx, "readdir"))
}

func (f *fake) Stat(ctx context.Context, n fsys.Node) (fsys.Attr, error) {
	if f.nodes[n] == nil {
		return fsys.Attr{}, fs.ErrNotExist
	}
	return f.nodes[n].attr, f.did(ctx, "stat")
}

func (f *fake) Runs(ctx context.Context, n fsys.Node) iter.Seq2[fsys.Run, error] {
	return each(f.nodes[n].runs, f.did(ctx, "runs"))
}

func (f *fake) ReadAt(ctx context.Context, n fsys.Node, p []byte, off int64) (int, error) {
	k := copy(p, f.nodes[n].data[min(off, int64(len(f.nodes[n].data))):])
	if k < len(p) {
		return k, io.EOF
	}
	return k, f.did(ctx, "read")
}

func (f *fake) Readlink(context.Context, fsys.Node) (string, error) { return "", fs.ErrInvalid }

// look analyses a volume that carries the signature of ext and is read by the fake.
func look(t *testing.T, f *fake, o exclude.Options) (*exclude.Plan, exclude.Volume) {
	t.Helper()
	return lookWith(t, func(context.Context, pipe.Image) (fsys.FileSystem, error) { return f, nil }, o)
}

func lookWith(t *testing.T, open func(context.Context, pipe.Image) (fsys.FileSystem, error), o exclude.Options) (*exclude.Plan, exclude.Volume) {
	t.Helper()
	disk := make([]byte, 16*mib)
	disk[1080], disk[1081] = 0x53, 0xEF
	o.Readers = []exclude.Reader{{Kind: "ext", Open: open}}
	plan := analyse(t, &o, exclude.Disk{Key: "d", Image: pipetest.Bytes(disk)})
	require.Len(t, plan.Report.Volumes, 1)
	return plan, plan.Report.Volumes[0]
}

// taken are the places that a plan leaves out, by kind.
func taken(p *exclude.Plan, kind pipe.Kind) (out []fsys.Range) {
	for e := range p.Extents("d", 0, 16*mib) {
		if e.Kind == kind {
			out = append(out, fsys.Range{Off: e.Off, Len: e.Len})
		}
	}
	return out
}

// R018: which files a set of rules takes.
func TestRules(t *testing.T) {
	paths := []string{"a.iso", "A.ISO", "tmp/x", "var/tmp/x", "var/tmp/keep/x", "var/tmpfile", "home/u/.cache/y/z", "home/u/doc.txt", "we[i]rd/x", "uml/äÖ.txt"}
	for _, c := range []struct {
		kind  string
		rules []string
		want  []string
	}{
		{"ext4", []string{"*.iso"}, []string{"a.iso"}},
		{"ntfs", []string{"*.iso"}, []string{"a.iso", "A.ISO"}},
		{"ntfs", []string{"UML/ÄÖ.TXT"}, []string{"uml/äÖ.txt"}},
		{"ext4", []string{"**/tmp/**"}, []string{"tmp/x", "var/tmp/x", "var/tmp/keep/x"}},
		{"ext4", []string{"/tmp"}, []string{"tmp/x"}},
		{"ext4", []string{"tmp"}, []string{"tmp/x", "var/tmp/x", "var/tmp/keep/x"}},
		{"ext4", []string{"!**/keep", "**/tmp/**"}, []string{"tmp/x", "var/tmp/x"}},
		{"ext4", []string{"**/tmp/**", "!var"}, []string{"tmp/x"}},
		{"ext4", []string{"!x"}, nil},
		{"ext4", []string{"home/*/.cache/", "var/tmp?ile"}, []string{"home/u/.cache/y/z", "var/tmpfile"}},
		{"ext4", []string{"var/[t-z]mp*"}, []string{"var/tmp/x", "var/tmp/keep/x", "var/tmpfile"}},
		{"ext4", []string{`we\[i]rd/*`}, []string{"we[i]rd/x"}},
		{"ext4", []string{"FAKE::a.iso", "d::home", "1234::var", "other::**"}, []string{"a.iso", "home/u/.cache/y/z", "home/u/doc.txt"}},
		{"ext4", []string{"**", "!fake::home"}, []string{"a.iso", "A.ISO", "tmp/x", "var/tmp/x", "var/tmp/keep/x", "var/tmpfile", "we[i]rd/x", "uml/äÖ.txt"}},
		{"ext4", []string{"**/**/**/x"}, []string{"tmp/x", "var/tmp/x", "var/tmp/keep/x", "we[i]rd/x"}},
		{"ext4", []string{"var/**/x"}, []string{"var/tmp/x", "var/tmp/keep/x"}},
	} {
		f := newFake(c.kind)
		where := map[string]fsys.Range{}
		for _, path := range paths {
			n := f.add(path, 0)
			where[path] = fsys.Range{Off: n.runs[0].Vol, Len: 8192}
		}
		plan, v := look(t, f, exclude.Options{Files: c.rules})
		require.Empty(t, v.Whole)
		var want []fsys.Range
		for _, path := range c.want {
			want = append(want, where[path])
		}
		require.ElementsMatch(t, want, taken(plan, pipe.Excluded), "%s %v", c.kind, c.rules)
		require.Equal(t, int64(len(c.want)), v.Files)
	}
}

func TestRulesThatAreRefused(t *testing.T) {
	for _, rule := range []string{"", "!", "/", "a//b", "a/../b", "./a", "[a", `a\`, "::x", "x::", "!x::", "x::/", "a\x00b", strings.Repeat("a", 5000), strings.Repeat("a/", 100) + "a"} {
		_, err := exclude.ParseGlobs([]string{rule})
		require.ErrorIs(t, err, fs.ErrInvalid, "%q", rule)
		_, err = exclude.Analyse(t.Context(), nil, &exclude.Options{Files: []string{rule}})
		require.ErrorIs(t, err, fs.ErrInvalid, "%q", rule)
	}
	_, err := exclude.ParseGlobs(slices.Repeat([]string{"x"}, 1000))
	require.ErrorIs(t, err, fs.ErrInvalid)
	for _, o := range []exclude.Options{{BlockSize: 3}, {BlockSize: -1}, {Deadline: -1}} {
		_, err := exclude.Analyse(t.Context(), nil, &o)
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
}

// A file goes only where it is regular, its blocks are its own, and every one of its names fits.
func TestWhatOfAFileMayGo(t *testing.T) {
	f := newFake("ext4")
	f.add("tmp/own", 0, fsys.Run{Len: 4096, Vol: 1 * mib, Kind: fsys.Written}, fsys.Run{File: 4096, Len: 4096, Vol: -1, Kind: fsys.Hole},
		fsys.Run{File: 8192, Len: 4096, Vol: 2 * mib, Kind: fsys.Unwritten}, fsys.Run{File: 12288, Len: 4096, Vol: 3 * mib, Kind: fsys.Shared},
		fsys.Run{File: 16384, Len: 100, Vol: -1, Kind: fsys.Packed})
	f.add("tmp/kept", 0).attr.Kept = "shared"
	f.add("tmp/link", fs.ModeSymlink)
	f.add("tmp/device", fs.ModeDevice)
	f.link("tmp", "second name", f.add("tmp/twice", 0))
	f.link("etc", "second name", f.add("tmp/elsewhere", 0))
	plan, v := look(t, f, exclude.Options{Files: []string{"tmp"}})
	require.Empty(t, v.Whole)
	require.ElementsMatch(t, []fsys.Range{{Off: 1 * mib, Len: 4096}, {Off: 2 * mib, Len: 4096}, {Off: f.twice(t), Len: 8192}}, taken(plan, pipe.Excluded))
	require.Equal(t, int64(2), v.Files)
}

// twice is where the file of that name lies.
func (f *fake) twice(t *testing.T) int64 {
	t.Helper()
	for _, n := range f.nodes {
		for _, e := range n.entries {
			if e.Name == "twice" {
				return f.nodes[e.Node].runs[0].Vol
			}
		}
	}
	require.Fail(t, "no such file")
	return 0
}

// R017: what Windows swaps to, at the root only, in any case, without its first page.
func TestWindowsSwap(t *testing.T) {
	f := newFake("ntfs")
	for i, name := range []string{"PageFile.SYS", "swapfile.sys", "hiberfil.sys", "sub/pagefile.sys"} {
		f.add(name, 0, fsys.Run{Len: mib, Vol: int64(i+1) * mib, Kind: fsys.Written})
	}
	part := func(i int64) fsys.Range { return fsys.Range{Off: i*mib + 4096, Len: mib - 4096} }
	plan, v := look(t, f, exclude.Options{Swap: true})
	require.Equal(t, []fsys.Range{part(1), part(2)}, taken(plan, pipe.Swap))
	require.Equal(t, int64(2*mib-2*4096), v.Swap)
	plan, _ = look(t, f, exclude.Options{Swap: true, Hiberfil: true})
	require.Equal(t, []fsys.Range{part(1), part(2), part(3)}, taken(plan, pipe.Swap))
	plan, _ = look(t, f, exclude.Options{})
	require.Empty(t, taken(plan, pipe.Swap))

	f.nodes[f.nodes[1].entries[0].Node].data = []byte("PAGEDU64 and the memory of a system that crashed")
	plan, _ = look(t, f, exclude.Options{Swap: true})
	require.Equal(t, []fsys.Range{part(2)}, taken(plan, pipe.Swap))
	require.Contains(t, plan.Report.Notes[0], "crash")
}

// A file that no kernel would swap to is a file like any other.
func TestWhatIsNoSwapFile(t *testing.T) {
	area := make([]byte, mib)
	copy(area[4086:], "SWAPSPACE2")
	copy(area[1024:], []byte{1, 0, 0, 0, 255})
	for name, c := range map[string]struct {
		path string
		runs []fsys.Run
		edit func(n *fakeNode)
		want int
	}{
		"good":      {path: "swapfile", want: 1},
		"elsewhere": {path: "srv/swapfile"},
		"hole":      {path: "swapfile", runs: []fsys.Run{{Len: 8192, Vol: mib, Kind: fsys.Written}, {File: 8192, Len: mib - 8192, Vol: -1, Kind: fsys.Hole}}},
		"shared":    {path: "swapfile", runs: []fsys.Run{{Len: mib, Vol: mib, Kind: fsys.Shared}}},
		"kept":      {path: "swapfile", edit: func(n *fakeNode) { n.attr.Kept = "shared" }},
		"no header": {path: "swapfile", edit: func(n *fakeNode) { n.data = make([]byte, mib) }},
		"too long":  {path: "swapfile", edit: func(n *fakeNode) { n.attr.Size = mib / 2 }},
	} {
		f := newFake("ext4")
		if c.runs == nil {
			c.runs = []fsys.Run{{Len: mib, Vol: mib, Kind: fsys.Written}}
		}
		n := f.add(c.path, 0, c.runs...)
		n.data, n.attr.Size = area, mib
		if c.edit != nil {
			c.edit(n)
		}
		plan, v := look(t, f, exclude.Options{Swap: true})
		require.Empty(t, v.Whole, name)
		require.Len(t, taken(plan, pipe.Swap), c.want, name)
	}
}

// What speaks against a volume makes all of it stored, whatever was found before.
func TestDoubtfulVolumes(t *testing.T) {
	all := exclude.Options{Swap: true, Free: true, Files: []string{"tmp"}}
	for name, c := range map[string]struct {
		edit func(f *fake)
		why  string
	}{
		"doubt":                 {func(f *fake) { f.info.Doubt = "an unknown feature" }, "an unknown feature"},
		"asleep":                {func(f *fake) { f.info.Hibernated = true }, "sleeps"},
		"too long":              {func(f *fake) { f.info.Size = 17 * mib }, "longer"},
		"a file in free space":  {func(f *fake) { f.add("tmp/y", 0, fsys.Run{Len: 4096, Vol: 8 * mib, Kind: fsys.Written}) }, "overlap"},
		"two files in a place":  {func(f *fake) { f.add("tmp/y", 0, fsys.Run{Len: 8192, Vol: 1*mib - 4096, Kind: fsys.Written}) }, "overlap"},
		"a file outside":        {func(f *fake) { f.add("tmp/y", 0, fsys.Run{Len: 8192, Vol: 16*mib - 4096, Kind: fsys.Written}) }, "overlap"},
		"free space outside":    {func(f *fake) { f.free = append(f.free, fsys.Range{Off: 15 * mib, Len: 2 * mib}) }, "overlap"},
		"free space backwards":  {func(f *fake) { f.free = append(f.free, fsys.Range{Off: 0, Len: 4096}) }, "overlap"},
		"free space cannot end": {func(f *fake) { f.on = failing("free") }, "injected"},
		"folder":                {func(f *fake) { f.on = failing("readdir") }, "injected"},
		"stat":                  {func(f *fake) { f.on = failing("stat") }, "injected"},
		"runs":                  {func(f *fake) { f.on = failing("runs") }, "injected"},
		"panic": {func(f *fake) {
			f.on = func(_ context.Context, op string) error {
				if op == "free" {
					panic("index out of range")
				}
				return nil
			}
		}, "its reader failed"},
	} {
		f := newFake("ext4")
		f.free = []fsys.Range{{Off: 8 * mib, Len: 2 * mib}}
		f.add("tmp/x", 0, fsys.Run{Len: 4096, Vol: 1 * mib, Kind: fsys.Written})
		_, v := look(t, f, all)
		require.Empty(t, v.Whole, name)
		require.Positive(t, v.Free)
		c.edit(f)
		plan, v := look(t, f, all)
		require.Contains(t, v.Whole, c.why, name)
		require.True(t, v.Caution, name)
		require.Zero(t, v.Free+v.Swap+v.Excluded)
		for range plan.Extents("d", 0, 16*mib) {
			require.Fail(t, "something is left out", name)
		}
	}
	_, v := lookWith(t, func(context.Context, pipe.Image) (fsys.FileSystem, error) { return nil, fsys.ErrOther }, all)
	require.Contains(t, v.Whole, "signature")
}

func failing(op string) func(context.Context, string) error {
	return func(_ context.Context, o string) error {
		if o == op {
			return pipetest.ErrFault
		}
		return nil
	}
}

// Time: what was not analysed when it was up is stored whole, and a caller that gives up is answered at once.
func TestDeadline(t *testing.T) {
	f := newFake("ext4")
	f.free = []fsys.Range{{Off: 8 * mib, Len: 2 * mib}}
	f.on = func(ctx context.Context, op string) error {
		if op == "free" {
			<-ctx.Done()
		}
		return ctx.Err()
	}
	begun := time.Now()
	plan, v := look(t, f, exclude.Options{Free: true, Deadline: 50 * time.Millisecond})
	require.Less(t, time.Since(begun), 10*time.Second)
	require.Contains(t, v.Whole, "time")
	require.True(t, v.Caution)
	require.Empty(t, taken(plan, pipe.Free))

	ctx, cancel := context.WithCancel(t.Context())
	disk := make([]byte, 16*mib)
	disk[1080], disk[1081] = 0x53, 0xEF
	_, err := exclude.Analyse(ctx, []exclude.Disk{{Key: "d", Image: pipetest.Bytes(disk)}}, &exclude.Options{Readers: []exclude.Reader{
		{Kind: "ext", Open: func(context.Context, pipe.Image) (fsys.FileSystem, error) { cancel(); return nil, ctx.Err() }}}})
	require.ErrorIs(t, err, context.Canceled)
}

// Looking through folders takes half of the time at most; what is free is found all the same.
func TestFoldersTakeTooLong(t *testing.T) {
	f := newFake("ext4")
	f.free = []fsys.Range{{Off: 8 * mib, Len: 2 * mib}}
	f.add("a/x", 0)
	f.add("x", 0, fsys.Run{Len: 4096, Vol: mib, Kind: fsys.Written})
	reads := 0
	f.on = func(ctx context.Context, op string) error {
		if reads++; op == "readdir" && reads > 12 { // those before look for swap files
			<-ctx.Done()
		}
		return ctx.Err()
	}
	plan, v := look(t, f, exclude.Options{Free: true, Files: []string{"x"}, Deadline: time.Second})
	require.Empty(t, v.Whole)
	require.Equal(t, int64(2*mib), v.Free)
	require.LessOrEqual(t, v.Files, int64(1))
	require.Len(t, plan.Report.Notes, 1)
	require.Contains(t, plan.Report.Notes[0], "time was up")
}

// Folders that lead in a circle, or very deep, end.
func TestFoldersThatDoNotEnd(t *testing.T) {
	f := newFake("ext4")
	f.add("a/b/x", 0)
	a := f.nodes[1].entries[0].Node
	b := f.nodes[a].entries[0].Node
	f.nodes[b].entries = append(f.nodes[b].entries, fsys.Entry{Name: "a", Node: a, Type: fs.ModeDir}, fsys.Entry{Name: "root", Node: 1, Type: fs.ModeDir})
	_, v := look(t, f, exclude.Options{Files: []string{"x"}})
	require.Equal(t, int64(1), v.Files)

	f = newFake("ext4")
	f.add(strings.Repeat("d/", 1000)+"x", 0)
	plan, v := look(t, f, exclude.Options{Files: []string{"x"}})
	require.Zero(t, v.Files)
	require.Contains(t, plan.Report.Notes[0], "more folders")
}

// FuzzGlobs: rules of any text are refused or used; what they fit is the same whether asked in one way or the other.
func FuzzGlobs(f *testing.F) {
	f.Add("**/tmp/**", "a/tmp/b")
	f.Add("!x::[a-z]*", "x")
	f.Fuzz(func(t *testing.T, rule, path string) {
		g, err := exclude.ParseGlobs([]string{rule})
		if err != nil {
			require.ErrorIs(t, err, fs.ErrInvalid)
			return
		}
		if g.Fits(path, false) {
			require.True(t, g.Fits(path+"/below", false), "what fits a folder fits what is in it")
		}
		all, err := exclude.ParseGlobs([]string{rule, "!**"})
		require.NoError(t, err)
		require.False(t, all.Fits(path, true), fmt.Sprintf("%q %q", rule, path))
	})
}
