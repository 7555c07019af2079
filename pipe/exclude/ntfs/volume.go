package ntfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// Options shape how a volume is opened. Nil and zero fields are good defaults.
type Options struct {
	// TrustLog lets the replay of a log count that would change something on the volume. By default such a volume is
	// doubtful and is shown as it lies there: see the package's comment for why.
	TrustLog bool
}

// Open opens the NTFS volume vol with the default options. vol stays the caller's to close.
func Open(ctx context.Context, vol pipe.Image) (fsys.FileSystem, error) {
	return OpenWith(ctx, vol, nil)
}

// OpenWith opens the NTFS volume vol. It answers [fsys.ErrOther] where sector 0 is not NTFS's, and a
// [*fsys.CorruptError] where not even the root directory can be found. All that is wrong beyond that makes the volume
// doubtful: its files can be read and nothing of it is free.
func OpenWith(ctx context.Context, vol pipe.Image, opts *Options) (fsys.FileSystem, error) {
	if opts == nil {
		opts = &Options{}
	}
	g, doubt, err := openBoot(ctx, vol)
	if err != nil {
		return nil, err
	}
	v := &volume{info: fsys.Info{Kind: "ntfs", UUID: fmt.Sprintf("%016x", g.serial), BlockSize: g.cluster}}
	v.info.Size = min(vol.Size(), (g.sectors+1)*g.sector)
	v.doubt(doubt)
	if v.disk, doubt, err = newView(ctx, vol, g); err != nil {
		return nil, err
	}
	v.doubt(doubt)
	v.now = v.disk
	for _, step := range []func(context.Context) error{v.readMirror, v.readVolumeInfo} {
		if err := v.doubtful(step(ctx)); err != nil {
			return nil, err
		}
	}
	if err := v.doubtful(v.readLog(ctx, opts.TrustLog)); err != nil {
		return nil, err
	}
	if _, err := v.now.file(ctx, numberRoot); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{v.findSleeper, v.findShadows, v.openMaps} {
		if err := v.doubtful(step(ctx)); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// volume implements [fsys.FileSystem].
type volume struct {
	disk *view // as it lies there
	now  *view // with the log's changes; the same as disk where there are none

	diskMap, nowMap *clusterMap // nil where doubtful

	mu      sync.Mutex // guards info and checked
	info    fsys.Info
	checked bool
}

// Info implements [fsys.FileSystem]. Doubt may also come from the first [volume.Free], which reads the file table.
func (v *volume) Info() fsys.Info {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.info
}

// Root implements [fsys.FileSystem].
func (v *volume) Root() fsys.Node { return numberRoot }

// doubt adds a reason, unless it is empty.
func (v *volume) doubt(why string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case why == "":
	case v.info.Doubt == "":
		v.info.Doubt = why
	default:
		v.info.Doubt += "; " + why
	}
}

// doubtful turns what is wrong with the volume into a doubt. What is wrong with reading stays an error.
func (v *volume) doubtful(err error) error {
	var bad *fsys.CorruptError
	var content *ContentError
	if errors.As(err, &bad) || errors.As(err, &content) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		v.doubt(err.Error())
		return nil
	}
	return err
}

// Flags of the volume.
const (
	volumeDirty   = 0x0001 // to be checked at the next start
	volumeChkdsk  = 0x4000 // a check is under way
	volumeKnown   = 0x0001 | 0x0002 | 0x0004 | 0x0008 | 0x0010 | 0x0020 | volumeChkdsk | 0x8000
	volumeInfoLen = 12
)

// readVolumeInfo reads the label, the version and the flags.
func (v *volume) readVolumeInfo(ctx context.Context) error {
	f, err := v.disk.file(ctx, numberVolume)
	if err != nil {
		return err
	}
	if parts := f.parts(typeVolName, ""); len(parts) > 0 {
		v.info.Label = decodeUTF16(parts[0].value)
	}
	p, err := v.disk.small(ctx, f, typeVolInfo, "", 64)
	if err != nil {
		return err
	}
	if len(p) < volumeInfoLen {
		return corrupt("volume information", v.disk.where(numberVolume), fmt.Errorf("%d bytes", len(p)))
	}
	major, minor, flags := p[8], p[9], le.Uint16(p[10:])
	if major != 1 && major != 3 || major == 1 && minor > 2 || major == 3 && minor > 1 {
		v.doubt(fmt.Sprintf("version %d.%d of NTFS is not known", major, minor))
	}
	if flags&volumeDirty != 0 {
		v.doubt("the volume is marked dirty")
	}
	if flags&volumeChkdsk != 0 {
		v.doubt("chkdsk was at work on it")
	}
	if flags&^volumeKnown != 0 {
		v.doubt(fmt.Sprintf("flags %#x of the volume are not known", flags&^volumeKnown))
	}
	return nil
}

// readMirror compares the first four file records with their copy. Their numbers in the log and the marks of torn writes
// may differ: the copy is written at another time.
func (v *volume) readMirror(ctx context.Context) error {
	for k := range int64(4) {
		a, err := v.disk.readRecord(ctx, k)
		if err != nil {
			return err
		}
		b, err := v.disk.recordAt(ctx, v.disk.mirror*v.disk.cluster+k*v.disk.record)
		if err != nil {
			return err
		}
		if !sameRecord(a, b) {
			v.doubt(fmt.Sprintf("file record %d and its copy differ", k))
		}
	}
	return nil
}

func sameRecord(a, b record) bool {
	if a.used() != b.used() {
		return false
	}
	mask := func(r record) string {
		p := append([]byte(nil), r[:r.used()]...)
		clear(p[8:16])
		if off := int(le.Uint16(p[4:])); off+2*int(le.Uint16(p[6:])) <= len(p) {
			clear(p[off : off+2*int(le.Uint16(p[6:]))])
		}
		return string(p)
	}
	return mask(a) == mask(b)
}

// findSleeper looks for a hibernated system, which includes one that was shut down for a fast start. Windows clears the
// file's first page when the system has started anew; whatever else stands there means that memory of a system may hold
// what belongs on this volume.
func (v *volume) findSleeper(ctx context.Context) error {
	number := int64(-1)
	err := v.now.walkDir(ctx, numberRoot, func(e indexEntry) (bool, error) {
		if strings.EqualFold(e.key.name, "hiberfil.sys") {
			number = e.file.number()
		}
		return number < 0, nil
	})
	if err != nil || number < 0 {
		return err
	}
	c, err := v.now.content(ctx, number)
	if err != nil {
		return err
	}
	if c.data == nil || c.data.size == 0 {
		return nil
	}
	page := make([]byte, min(4096, c.data.size))
	if _, err := c.data.readAt(ctx, page, 0); err != nil {
		return err
	}
	for _, b := range page {
		if b != 0 {
			v.info.Hibernated = true
			v.doubt(fmt.Sprintf("a Windows sleeps on this volume: hiberfil.sys begins with %q", page[:min(4, len(page))]))
			break
		}
	}
	return nil
}

// openMaps finds the bitmap, before and after the log.
func (v *volume) openMaps(ctx context.Context) (err error) {
	if v.diskMap, err = v.disk.openMap(ctx); err != nil {
		return err
	}
	v.nowMap = v.diskMap
	if v.now != v.disk {
		v.nowMap, err = v.now.openMap(ctx)
	}
	return err
}
