package fatdisk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"
)

// Sample makes a disk with a small machine's files on it: programs, logs, documents, pictures that do not compress,
// and one folder that is a copy of another. The same size and seed give the same bytes.
func Sample(path string, size int64, seed uint64) (*Disk, error) {
	d, err := Create(path, size, &Options{Serial: uint32(seed), Time: day(0)})
	if err != nil {
		return nil, err
	}
	if err := d.fill(seed); err != nil {
		d.Close()
		return nil, fmt.Errorf("fill %s: %w", path, err)
	}
	return d, nil
}

// share is how much of the disk the sample's files take: 1/share.
const share = 5

func (d *Disk) fill(seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 0))
	unit := max(int(d.vol.clusterSize())*int(d.vol.clusters)/share/64, 16<<10)
	for i := range 12 {
		if err := d.WriteFile(fmt.Sprintf("SYSTEM/TOOL%02d.BIN", i), program(r, 2*unit)); err != nil {
			return err
		}
	}
	for i := range 16 {
		picture := noise(r, unit)
		if err := d.WriteFile(fmt.Sprintf("USERS/ANNA/PHOTO%02d.JPG", i), picture); err != nil {
			return err
		}
		if i%4 != 0 {
			continue
		}
		if err := d.WriteFile(fmt.Sprintf("USERS/BEN/FROMANNA/PHOTO%02d.JPG", i), picture); err != nil {
			return err
		}
	}
	for i := range 8 {
		if err := d.WriteFile(fmt.Sprintf("USERS/ANNA/DOCS/REPORT%d.TXT", i), prose(r, unit/2)); err != nil {
			return err
		}
	}
	if err := d.WriteFile("LOGS/SYSTEM.LOG", log(r, 0, unit)); err != nil {
		return err
	}
	return d.WriteFile("README.TXT", []byte("A sample disk. Every file on it was made up.\r\n"))
}

// Pass lets a day pass on a sample disk: the log grows, a document changes, pictures come and go, a program is
// updated. n is the number of the day, from 1.
func (d *Disk) Pass(n int) error {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	d.SetTime(day(n))
	old, err := d.ReadFile("LOGS/SYSTEM.LOG")
	if err != nil {
		return err
	}
	tool := fmt.Sprintf("SYSTEM/TOOL%02d.BIN", n%12)
	code, err := d.ReadFile(tool)
	if err != nil {
		return err
	}
	copy(code[len(code)/2:], program(r, len(code)/8))
	writes := []struct {
		name string
		data []byte
	}{
		{"LOGS/SYSTEM.LOG", append(old, log(r, n, 64<<10)...)},
		{fmt.Sprintf("USERS/ANNA/DOCS/REPORT%d.TXT", n%8), prose(r, 96<<10)},
		{fmt.Sprintf("USERS/BEN/DAY%d/NEW.JPG", n), noise(r, 200<<10)},
		{tool, code},
	}
	for _, w := range writes {
		if err := d.WriteFile(w.name, w.data); err != nil {
			return err
		}
	}
	return d.Remove(fmt.Sprintf("USERS/ANNA/PHOTO%02d.JPG", (n-1)%16))
}

func day(n int) time.Time { return time.Date(2026, 3, 2+n, 9, 30, 0, 0, time.UTC) }

func noise(r *rand.Rand, n int) []byte {
	p := make([]byte, n+7)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], r.Uint64())
	}
	return p[:n]
}

// program is what machine code is like to a compressor: short patterns that come back, with noise between.
func program(r *rand.Rand, n int) []byte {
	words := make([][]byte, 512)
	for i := range words {
		words[i] = noise(r, 3+r.IntN(9))
	}
	var b bytes.Buffer
	for b.Len() < n {
		b.Write(words[r.IntN(len(words))])
		if r.IntN(3) == 0 {
			b.WriteByte(byte(r.Uint32()))
		}
	}
	return b.Bytes()[:n]
}

var vocabulary = []string{"the", "disk", "was", "copied", "at", "night", "and", "nobody", "noticed", "until", "morning",
	"when", "a", "quiet", "machine", "told", "its", "story", "block", "by", "again", "without", "a", "word", "of", "praise"}

func prose(r *rand.Rand, n int) []byte {
	var b bytes.Buffer
	for b.Len() < n {
		b.WriteString(vocabulary[r.IntN(len(vocabulary))])
		b.WriteString([]string{" ", " ", " ", " ", ", ", ".\r\n"}[r.IntN(6)])
	}
	return b.Bytes()[:n]
}

func log(r *rand.Rand, n, size int) []byte {
	var b bytes.Buffer
	at := day(n)
	for b.Len() < size {
		at = at.Add(time.Duration(r.IntN(900)) * time.Millisecond)
		fmt.Fprintf(&b, "%s web[%d]: GET /item/%d %d %dus\r\n", at.Format(time.RFC3339), 200+r.IntN(40), r.IntN(5000),
			[]int{200, 200, 200, 304, 404}[r.IntN(5)], r.IntN(90000))
	}
	return b.Bytes()
}
