package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Kinds of objects, section 1 of FORMAT.md.
const (
	kindHeader     = 1
	kindSlot       = 2
	kindData       = 3
	kindMeta       = 4
	kindManifest   = 5
	kindLog        = 6
	kindCheckpoint = 7
	kindIndex      = 8
	kindBeat       = 9
	kindAnchor     = 10
)

// places are the prefixes under which vital objects stand.
var places = []string{"", "copy1/", "copy2/"}

// maxNames bounds how many names one folder may have before this reader gives up: it is for reading a repository back,
// and not for serving one.
const maxNames = 1 << 22

// folder is a repository on a directory: an object is the file at its name.
type folder string

func (d folder) path(name string) string { return filepath.Join(string(d), filepath.FromSlash(name)) }

// open opens a regular file; anything else could make a reader wait for ever.
func (d folder) open(name string) (*os.File, error) {
	info, err := os.Stat(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &fault{name, -1, errMissing, ""}
	}
	if err != nil {
		return nil, &fault{name, -1, errDamaged, err.Error()}
	}
	if !info.Mode().IsRegular() {
		return nil, damaged(name, -1, "it is not a file")
	}
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, &fault{name, -1, errDamaged, err.Error()}
	}
	return f, nil
}

// cells reads an object whole and mends it. What the disk does not give counts as lost, cell by cell.
func (d folder) cells(name string, w want) (*cellFile, error) {
	f, err := d.open(name)
	if err != nil {
		return &cellFile{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return &cellFile{}, damaged(name, -1, "%v", err)
	}
	size := min(info.Size(), maxCells*cellSize+1)
	file := make([]byte, size)
	if n, err := f.ReadAt(file, 0); err != nil && n < len(file) {
		for at := n / cellSize * cellSize; at < len(file); at += cellSize {
			cell := file[at:min(at+cellSize, len(file))]
			if n, err := f.ReadAt(cell, int64(at)); n < len(cell) && err != nil {
				clear(cell)
			}
		}
	}
	c, err := readCells(file, w)
	return c, named(name, err)
}

// list gives the names in a folder in order, each held against pattern; what else lies there is not of the format.
func (d folder) list(name string, pattern func(string) bool) ([]string, error) {
	f, err := os.Open(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, damaged(name, -1, "%v", err)
	}
	defer f.Close()
	var names []string
	for {
		part, err := f.Readdirnames(1024)
		for _, n := range part {
			if pattern(n) {
				names = append(names, n)
			}
		}
		if err == io.EOF {
			slices.Sort(names)
			return names, nil
		}
		if err != nil {
			return nil, damaged(name, -1, "%v", err)
		}
		if len(names) > maxNames {
			return nil, unsupported(name, "more than %d names", maxNames)
		}
	}
}

// leased gives the objects below a folder that are named by lease and id.
func (d folder) leased(top string) ([]objectName, error) {
	leases, err := d.list(top, isNumber)
	if err != nil {
		return nil, err
	}
	var all []objectName
	for _, l := range leases {
		ids, err := d.list(top+"/"+l, isID)
		if err != nil {
			return nil, err
		}
		for _, i := range ids {
			all = append(all, objectName{number(l), parseID(i), top + "/" + l + "/" + i})
		}
		if len(all) > maxNames {
			return nil, unsupported(top, "more than %d objects", maxNames)
		}
	}
	return all, nil
}

// objectName is a name with a lease and an id.
type objectName struct {
	lease uint64
	id    id16
	name  string
}

// parseName takes the name of an object that has a lease and an id apart.
func parseName(name string) (kind byte, lease uint64, id id16, ok bool) {
	top, rest, _ := strings.Cut(name, "/")
	kind = map[string]byte{"data": kindData, "meta": kindMeta, "manifest": kindManifest, "index": kindIndex, "anchor": kindAnchor}[top]
	between := "/"
	if kind == kindManifest {
		between = "-"
	}
	n, digits, _ := strings.Cut(rest, between)
	if kind == 0 || !isNumber(n) || !isID(digits) {
		return 0, 0, id, false
	}
	return kind, number(n), parseID(digits), true
}

func isLowerHex(s string, digits int) bool {
	return len(s) == digits && strings.Trim(s, "0123456789abcdef") == ""
}
func isID(s string) bool     { return isLowerHex(s, 32) }
func isNumber(s string) bool { return isLowerHex(s, 16) }

func parseID(s string) (id id16) {
	for i := range id {
		b, _ := strconv.ParseUint(s[2*i:2*i+2], 16, 8)
		id[i] = byte(b)
	}
	return id
}

func number(s string) uint64 {
	n, _ := strconv.ParseUint(s, 16, 64)
	return n
}

func logName(n uint64) string { return fmt.Sprintf("log/%016x", n) }

func checkpointName(k uint64) string { return fmt.Sprintf("checkpoint/%016x", k) }

func manifestName(lease uint64, point id16) string {
	return fmt.Sprintf("manifest/%016x-%s", lease, point)
}
