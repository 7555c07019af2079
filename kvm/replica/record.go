package replica

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/hikae/hikae/pipe"
)

// record is the file that makes a folder a point.
type record struct {
	Info      pipe.PointInfo `json:"info"`
	Committed time.Time      `json:"committed"`
	Base      string         `json:"base,omitempty"` // the point that its disks stand on
	Disks     []diskRecord   `json:"disks"`
	Blobs     []blobRecord   `json:"blobs,omitempty"`
}

// diskRecord is one disk of a point: the file Name.qcow2 with its map, Name.map.
type diskRecord struct {
	Key   string `json:"key"`
	Name  string `json:"name"`
	Size  int64  `json:"size"`
	Based bool   `json:"based,omitempty"` // it stands on the base's disk
}

// blobRecord is one named blob: the file blobN, by its place in the list.
type blobRecord struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	Sum  uint64 `json:"sum,string"`
}

const (
	recordVersion = 1
	maxRecord     = 16 << 20
	maxDisks      = 256
	maxBlobs      = 1024
	maxBlob       = 16 << 30
	maxName       = 1024
	// maxChain bounds how many points stand on each other: QEMU opens all of them.
	maxChain = 60

	recordName  = "point.json"
	mergingName = "merging.json" // in the place of the record of a point that is being merged into the next
)

// sealedText is how a JSON file of ours stands on disk: with a sum of its text.
type sealedText struct {
	Version int             `json:"version"`
	Sum     uint64          `json:"sum,string"`
	Body    json.RawMessage `json:"body"`
}

func encodeText(version int, body any) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return json.Marshal(sealedText{version, xxhash.Sum64(text), text})
}

func decodeText(text []byte, version int, body any) error {
	var s sealedText
	if err := strictly(text, &s); err != nil {
		return err
	}
	switch {
	case s.Version != version:
		return fmt.Errorf("version %d: %w", s.Version, errors.ErrUnsupported)
	case xxhash.Sum64(s.Body) != s.Sum:
		return errContent
	}
	return strictly(s.Body, body)
}

// strictly refuses what a later version may have put there.
func strictly(text []byte, out any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(out); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("it goes on after its end")
	}
	return nil
}

func decodeRecord(text []byte) (*record, error) {
	r := &record{}
	if err := decodeText(text, recordVersion, r); err != nil {
		return nil, err
	}
	return r, r.check()
}

// check refuses what Commit never writes: names that lead elsewhere, things named twice, sizes that no disk has.
func (r *record) check() error {
	switch p := &r.Info; {
	case !pointID.MatchString(p.ID) || p.VM == "" || len(p.VM) > maxName:
		return errors.New("it names no point of a VM")
	case r.Base != "" && (!pointID.MatchString(r.Base) || r.Base == p.ID):
		return errors.New("its base is no other point")
	case len(r.Disks) > maxDisks || len(r.Disks) != len(p.Disks) || len(r.Blobs) > maxBlobs || len(r.Blobs) != len(p.Blobs):
		return fmt.Errorf("it has %d disks and %d blobs", len(r.Disks), len(r.Blobs))
	}
	seen := map[string]bool{}
	for i, d := range r.Disks {
		told := r.Info.Disks[i]
		bad := d.Key == "" || len(d.Key) > maxName || d.Name != nameFor(d.Key) || seen[d.Key] || d.Size < 0 || d.Size > maxDisk
		if bad || told.Key != d.Key || told.Size != d.Size || d.Based && r.Base == "" {
			return fmt.Errorf("its disk %q is none of ours", d.Key)
		}
		seen[d.Key] = true
	}
	clear(seen)
	for i, b := range r.Blobs {
		if seen[b.Name] || len(b.Name) > maxName || b.Size < 0 || b.Size > maxBlob || r.Info.Blobs[i] != (pipe.BlobInfo{Name: b.Name, Size: b.Size}) {
			return fmt.Errorf("its blob %q is none of ours", b.Name)
		}
		seen[b.Name] = true
	}
	return nil
}

func (r *record) disk(key string) (diskRecord, bool) {
	for _, d := range r.Disks {
		if d.Key == key {
			return d, true
		}
	}
	return diskRecord{}, false
}

// loadRecord reads the record of a point's folder, by the record's or the merging one's name. Where there is none the error
// is fs.ErrNotExist; what is there and wrong is a [*DamagedError].
func loadRecord(dir, name string) (*record, error) {
	text, err := readSmall(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	id := filepath.Base(dir)
	r, err := decodeRecord(text)
	if err == nil && (r.Info.ID != id || nameFor(r.Info.VM) != filepath.Base(filepath.Dir(dir))) {
		err = fmt.Errorf("it is that of point %s of %s", r.Info.ID, r.Info.VM)
	}
	if err != nil {
		return nil, &DamagedError{Point: id, Err: fmt.Errorf("%s: %w", name, err)}
	}
	return r, nil
}

// readSmall reads a file of ours that has a bound.
func readSmall(path string) ([]byte, error) {
	f, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err == nil && len(text) > maxRecord {
		err = &fs.PathError{Op: "read", Path: path, Err: errors.New("it is too large to be ours")}
	}
	return text, err
}

// replaceFile gives a file new content, durably and at once.
func replaceFile(path string, text []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return roomError(err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	return roomError(errors.Join(err, syncDir(filepath.Dir(path))))
}

func saveRecord(dir string, r *record) error {
	text, err := encodeText(recordVersion, r)
	if err == nil && len(text) > maxRecord {
		err = fmt.Errorf("the point's record would have %d bytes: %w", len(text), fs.ErrInvalid)
	}
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, recordName), text)
}
