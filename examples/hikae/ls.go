package main

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/pipe/exclude/files"
)

func (t *tool) lsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls --repo REPO POINT [PATH]",
		Short: "List the files in a restore point",
		Long: text(`
List a directory of the machine that is in a restore point, or without PATH its volumes.
` + guestWords),
		Example: example(`
hikae ls --repo /backup/hikae web1@latest
hikae ls --repo /backup/hikae web1@latest /etc
hikae ls --repo /backup/hikae web1@latest~2 --volume vg0/data /`),
		Args: want("POINT", "[PATH]"),
	}
	f := guestFlagsOf(cmd)
	cmd.RunE = t.act(func(ctx context.Context, args []string) (_ *reply, err error) {
		g, err := t.openGuest(ctx, f, args[0])
		if err != nil {
			return nil, err
		}
		defer g.Close()
		if len(args) == 1 && f.volume == "" {
			return g.listVolumes(), nil
		}
		return g.list(strings.Join(args[1:], ""))
	})
	return cmd
}

// volumesDoc is what ls prints for scripts where no path was given.
type volumesDoc struct {
	Point   string      `json:"point"`
	Volumes []volumeDoc `json:"volumes"`
}

type volumeDoc struct {
	Name    string `json:"name"`
	Size    int64  `json:"size"`
	Kind    string `json:"kind"` // of the file system, or what else was recognised; empty: nothing was
	Label   string `json:"label"`
	UUID    string `json:"uuid"`
	Mount   string `json:"mount"`
	Problem string `json:"problem"`
}

func (g *contents) listVolumes() *reply {
	doc := volumesDoc{Point: g.point.ID, Volumes: []volumeDoc{}}
	for _, v := range g.Volumes {
		d := volumeDoc{Name: v.Name, Size: v.Size, Kind: v.Kind, Label: v.Info.Label, UUID: v.Info.UUID, Mount: v.Mount, Problem: v.Problem}
		if v.FS != nil {
			d.Kind = v.Info.Kind
		}
		doc.Volumes = append(doc.Volumes, d)
	}
	return &reply{doc: doc, notes: g.Notes, loud: true, text: doc.print}
}

func (d volumesDoc) print(w *show.Printer) error {
	if len(d.Volumes) == 0 {
		return w.Printf("the disks are empty\n")
	}
	table := show.NewTable("VOLUME", ">SIZE", "KIND", "LABEL", "MOUNTED AT", "")
	for _, v := range d.Volumes {
		table.Row(outcome.Clean(v.Name), show.Size(v.Size), outcome.Clean(v.Kind), outcome.Clean(v.Label), outcome.Clean(v.Mount), outcome.Clean(v.Problem))
	}
	return table.Print(w)
}

// entriesDoc is what ls prints for scripts.
type entriesDoc struct {
	Point   string     `json:"point"`
	Path    string     `json:"path"`
	Entries []entryDoc `json:"entries"`
}

type entryDoc struct {
	Name   string    `json:"name"`
	Type   string    `json:"type"`
	Size   int64     `json:"size"`
	Mode   string    `json:"mode"` // octal
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	Time   time.Time `json:"time"`
	Target string    `json:"target,omitempty"` // of a symbolic link

	long string
}

// list lists a directory, or one file.
func (g *contents) list(given string) (*reply, error) {
	tree, err := g.rooted()
	if err != nil {
		return nil, err
	}
	name, err := inTree(given)
	if err != nil {
		return nil, err
	}
	info, err := tree.Stat(name)
	if err != nil {
		return nil, aboutFile(given, err)
	}
	doc := entriesDoc{Point: g.point.ID, Path: "/" + strings.TrimPrefix(name, "."), Entries: []entryDoc{}}
	list := []fs.DirEntry{fs.FileInfoToDirEntry(info)}
	dir := ""
	if info.IsDir() {
		dir = name
		if list, err = tree.ReadDir(name); err != nil {
			return nil, aboutFile(given, err)
		}
	}
	var broken []string
	for _, e := range list {
		info, err := e.Info()
		if err != nil {
			broken = append(broken, fmt.Sprintf("%s: %v", e.Name(), err))
			continue
		}
		doc.Entries = append(doc.Entries, entryOf(tree, dir, info.(files.Info)))
	}
	left := &reply{doc: doc, warnings: broken, loud: true, text: doc.print}
	if len(broken) > 0 {
		left.status = outcome.Warned
	}
	return left, nil
}

func entryOf(tree *files.Tree, dir string, info files.Info) entryDoc {
	e := entryDoc{Name: info.Name(), Type: typeWord(info.Mode()), Size: info.Size(), Mode: fmt.Sprintf("%04o", unixMode(info.Mode())),
		UID: info.UID, GID: info.GID, Time: info.ModTime().UTC(), long: longMode(info.Mode())}
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err := tree.ReadLink(strings.TrimPrefix(dir+"/"+e.Name, "/")); err == nil {
			e.Target = target
		}
	}
	return e
}

// unixMode has the bits where chmod(2) has them.
func unixMode(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for i, special := range [...]fs.FileMode{fs.ModeSticky, fs.ModeSetgid, fs.ModeSetuid} {
		if m&special != 0 {
			bits |= 0o1000 << i
		}
	}
	return bits
}

// longMode is a mode as ls -l writes it.
func longMode(m fs.FileMode) string {
	word := []byte(m.Perm().String())
	word[0] = map[fs.FileMode]byte{fs.ModeDir: 'd', fs.ModeSymlink: 'l', fs.ModeNamedPipe: 'p', fs.ModeSocket: 's',
		fs.ModeDevice: 'b', fs.ModeDevice | fs.ModeCharDevice: 'c', 0: '-'}[m.Type()]
	for _, special := range [...]struct {
		bit  fs.FileMode
		at   int
		with byte
	}{{fs.ModeSetuid, 3, 's'}, {fs.ModeSetgid, 6, 's'}, {fs.ModeSticky, 9, 't'}} {
		switch {
		case m&special.bit == 0:
		case word[special.at] == 'x':
			word[special.at] = special.with
		default:
			word[special.at] = special.with - 'a' + 'A'
		}
	}
	return string(word)
}

func typeWord(m fs.FileMode) string {
	switch m.Type() {
	case 0:
		return "file"
	case fs.ModeDir:
		return "directory"
	case fs.ModeSymlink:
		return "link"
	case fs.ModeNamedPipe:
		return "pipe"
	case fs.ModeSocket:
		return "socket"
	case fs.ModeDevice:
		return "block-device"
	case fs.ModeDevice | fs.ModeCharDevice:
		return "character-device"
	}
	return "other"
}

func (d entriesDoc) print(w *show.Printer) error {
	table := show.NewTable("MODE", ">UID", ">GID", ">SIZE", "TIME", "NAME")
	for _, e := range d.Entries {
		name := outcome.Clean(e.Name)
		if e.Target != "" {
			name += " -> " + outcome.Clean(e.Target)
		}
		table.Row(e.long, fmt.Sprint(e.UID), fmt.Sprint(e.GID), show.Size(e.Size), show.Time(e.Time), name)
	}
	return table.Print(w)
}
