package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// way is one way of hurting a repository: by its files alone, or while something is under way.
type way struct {
	name  string
	hurt  func(rng *rand.Rand, dir string) (what string, err error)
	alive func(l *lab, rng *rand.Rand, dir string) (*verdict, error)
}

// ways are all of them. Of those that hurt files, none but beyond, delete, truncate, empty and thrice can lose anything.
var ways = []way{
	{name: "flip", hurt: flip},
	{name: "kill", alive: (*lab).killed},
	{name: "hole", hurt: hole},
	{name: "truncate", hurt: truncate},
	{name: "lost-answer", alive: (*lab).lostAnswer},
	{name: "delete", hurt: remove},
	{name: "swap", hurt: swap},
	{name: "stale", alive: (*lab).stale},
	{name: "empty", hurt: empty},
	{name: "junk", hurt: junk},
	{name: "full-disk", alive: (*lab).fullDisk},
	{name: "beyond", hurt: beyond},
	{name: "thrice", hurt: thrice},
}

func names() (list []string) {
	for _, w := range ways {
		list = append(list, w.name)
	}
	return list
}

func waysNamed(name string) []way {
	i := slices.IndexFunc(ways, func(w way) bool { return w.name == name })
	if i < 0 {
		return nil
	}
	return ways[i : i+1]
}

// objects are the names of all files of a repository that are objects, in order.
func objects(dir string) (list []string, err error) {
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if name = filepath.ToSlash(name); err == nil && !strings.HasPrefix(name, ".") {
			list = append(list, name)
		}
		return err
	})
	if err == nil && len(list) == 0 {
		err = errors.New("there is no repository")
	}
	slices.Sort(list)
	return list, err
}

// pick chooses an object: its kind first, so that the few vital ones come up as often as the many packs.
func pick(rng *rand.Rand, dir string, kinds ...string) (string, error) {
	list, err := objects(dir)
	if err != nil {
		return "", err
	}
	byKind := map[string][]string{}
	for _, name := range list {
		if k := kindOf(name); len(kinds) == 0 || slices.Contains(kinds, k) {
			byKind[k] = append(byKind[k], name)
		}
	}
	var there []string
	for k := range byKind {
		there = append(there, k)
	}
	if len(there) == 0 {
		return "", fmt.Errorf("no object of kind %v is there", kinds)
	}
	slices.Sort(there)
	of := byKind[there[rng.IntN(len(there))]]
	return of[rng.IntN(len(of))], nil
}

func kindOf(name string) string {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "copy1/"), "copy2/")
	kind, _, _ := strings.Cut(name, "/")
	return kind
}

// change rewrites a file.
func change(dir, name string, f func([]byte) []byte) error {
	p := filepath.Join(dir, filepath.FromSlash(name))
	b, err := os.ReadFile(p)
	if err != nil {
		return err
	}
	if err := os.Chmod(p, 0o600); err != nil {
		return err
	}
	return os.WriteFile(p, f(b), 0o600)
}

func flip(rng *rand.Rand, dir string) (string, error) {
	name, err := pick(rng, dir)
	if err != nil {
		return "", err
	}
	n := 1 + rng.IntN(2)
	return fmt.Sprintf("%d bytes of %s are others", n, name), change(dir, name, func(b []byte) []byte {
		for range n {
			b[rng.IntN(len(b))] ^= byte(1 + rng.IntN(255))
		}
		return b
	})
}

// hole takes as much as the parity of every object gives back: two cells at most, wherever it begins.
func hole(rng *rand.Rand, dir string) (string, error) {
	name, err := pick(rng, dir)
	if err != nil {
		return "", err
	}
	n := []int{512, 4096}[rng.IntN(2)]
	at := 0
	err = change(dir, name, func(b []byte) []byte {
		at = rng.IntN(len(b)/512) * 512
		clear(b[at:min(at+n, len(b))])
		return b
	})
	return fmt.Sprintf("%s has a hole of %d bytes at %d", name, n, at), err
}

func truncate(rng *rand.Rand, dir string) (string, error) {
	name, err := pick(rng, dir)
	if err != nil {
		return "", err
	}
	n := 0
	err = change(dir, name, func(b []byte) []byte { n = rng.IntN(len(b)); return b[:n] })
	return fmt.Sprintf("%s is cut off at %d", name, n), err
}

func empty(rng *rand.Rand, dir string) (string, error) {
	name, err := pick(rng, dir)
	if err != nil {
		return "", err
	}
	return name + " is empty", change(dir, name, func([]byte) []byte { return nil })
}

func remove(rng *rand.Rand, dir string) (string, error) {
	name, err := pick(rng, dir)
	if err != nil {
		return "", err
	}
	return name + " is gone", os.Remove(filepath.Join(dir, filepath.FromSlash(name)))
}

// swap exchanges two files of one kind.
func swap(rng *rand.Rand, dir string) (string, error) {
	a, err := pick(rng, dir, "data", "meta", "log", "manifest", "index")
	if err != nil {
		return "", err
	}
	b := a
	for tries := 0; b == a && tries < 100; tries++ {
		if b, err = pick(rng, dir, kindOf(a)); err != nil {
			return "", err
		}
	}
	pa, pb := filepath.Join(dir, filepath.FromSlash(a)), filepath.Join(dir, filepath.FromSlash(b))
	aside := pa + ".aside"
	return fmt.Sprintf("%s and %s have changed names", a, b), errors.Join(os.Rename(pa, aside), os.Rename(pb, pa), os.Rename(aside, pb))
}

// junk leaves files about that are of nobody.
func junk(rng *rand.Rand, dir string) (string, error) {
	name, err := pick(rng, dir, "data", "log", "manifest", "slot")
	if err != nil {
		return "", err
	}
	beside := path.Join(path.Dir(name), []string{".DS_Store", "Thumbs.db", "old~", "x.tmp", "ffffffffffffffff"}[rng.IntN(5)])
	b := make([]byte, rng.IntN(10_000))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return beside + " is there, and nobody knows of it", os.WriteFile(filepath.Join(dir, filepath.FromSlash(beside)), b, 0o600)
}

// beyond hurts a pack more than its parity gives back.
func beyond(rng *rand.Rand, dir string) (string, error) {
	name, err := pick(rng, dir, "data", "meta")
	if err != nil {
		return "", err
	}
	return "every second cell of " + name + " is hurt", change(dir, name, func(b []byte) []byte {
		for at := rng.IntN(4096); at < len(b); at += 8192 {
			b[at] ^= 1
		}
		if len(b) <= 4*4096 { // all of them, where there are so few
			for at := 77; at < len(b); at += 4096 {
				b[at] ^= 1
			}
		}
		return b
	})
}

// thrice takes all three places of a manifest or a record away, which one accident does not do.
func thrice(rng *rand.Rand, dir string) (string, error) {
	name, err := pick(rng, dir, "manifest", "log")
	if err != nil {
		return "", err
	}
	name = strings.TrimPrefix(strings.TrimPrefix(name, "copy1/"), "copy2/")
	for _, place := range []string{"", "copy1/", "copy2/"} {
		err = errors.Join(err, os.Remove(filepath.Join(dir, filepath.FromSlash(place+name))))
	}
	return "all three places of " + name + " are gone", err
}
