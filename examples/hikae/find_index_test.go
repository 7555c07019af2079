package main

import (
	"bytes"
	"context"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hikae/hikae/guest/index"
	"github.com/hikae/hikae/guest/index/list"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// listed makes a point with a list of files, as a backup of a guest with a component does:
//
//	listed REPO VM DISK posix|windows|damaged|partial
func listed(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) == 4, "listed REPO VM DISK KIND")
	ctx := context.Background()
	st, err := dirstore.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	r, err := repo.Open(ctx, st, nil, nil)
	ts.Check(err)
	defer r.Close()
	img, err := diskfile.Open(ts.MkAbs(args[2]), nil)
	ts.Check(err)
	defer img.Close()
	w, err := r.Begin(ctx, args[1], nil)
	ts.Check(err)
	defer w.Close()
	disk, err := w.Disk(ctx, "disk0", img.Size())
	ts.Check(err)
	_, err = pipe.Copy(ctx, disk, img, nil)
	ts.Check(err)
	ts.Check(disk.Commit(ctx))
	blob := listOf(ts, args[3])
	ts.Check(w.Blob(ctx, index.BlobName, bytes.NewReader(blob)))
	_, err = w.Commit(ctx, nil)
	ts.Check(err)
}

// listOf is a machine's list of files.
func listOf(ts *testscript.TestScript, kind string) []byte {
	const when = 1_700_000_000
	var out bytes.Buffer
	w, err := index.NewWriter(&out, nil)
	ts.Check(err)
	volume := func(v index.Volume, entries ...index.Entry) {
		ts.Check(w.Volume(v))
		ts.Check(w.Add(index.Entry{Type: list.Dir}))
		for _, e := range entries {
			ts.Check(w.Add(e))
		}
	}
	if kind == "windows" {
		volume(index.Volume{Mount: "C:", Kind: "NTFS", System: list.Windows},
			index.Entry{Path: "Users", Type: list.Dir}, index.Entry{Path: "Users/Eve", Type: list.Dir},
			index.Entry{Path: "Users/Eve/Plan.docx", Size: 7, Owner: "S-1-5-18"}, index.Entry{Path: "Windows", Type: list.Dir})
	} else if kind == "partial" {
		volume(index.Volume{Mount: "/", Kind: "ext4", System: list.POSIX},
			index.Entry{Path: "etc", Type: list.Dir}, index.Entry{Path: "etc/a.conf"},
			index.Entry{Path: "proc", Type: list.Dir, Note: list.NoteMount},
			index.Entry{Path: "srv", Type: list.Dir}, index.Entry{Path: "srv/bad", Type: list.Dir, Note: "input/output error"})
		volume(index.Volume{Mount: "/var", Kind: "xfs", System: list.POSIX})
		w.Cut("the list is as long as it may be")
	} else {
		volume(index.Volume{Mount: "/", Kind: "ext4", System: list.POSIX},
			index.Entry{Path: "etc", Type: list.Dir}, index.Entry{Path: "etc/app", Type: list.Dir},
			index.Entry{Path: "etc/app/a.conf", Size: 5000, ModUnix: when, Owner: "0"},
			index.Entry{Path: "etc/app/b.conf", Size: 10, ModUnix: when + 1, Owner: "1000"},
			index.Entry{Path: "etc/odd\xff"}, index.Entry{Path: "var", Type: list.Dir, Note: "another file system is mounted here"})
		volume(index.Volume{Mount: "/var", Kind: "xfs", System: list.POSIX}, index.Entry{Path: "x.log"})
	}
	ts.Check(w.Close())
	if kind == "damaged" {
		out.Bytes()[out.Len()-20] ^= 1
	}
	return out.Bytes()
}
