package requester

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/windows"

	"github.com/hikae/hikae/guest/agent/vss"
)

// System is the service of this machine.
func System() (VSS, error) { return system{}, nil }

// system is a Windows' own service, by package guest/agent/vss, and its files.
type system struct{}

var hyperVClass = mustGUID(HyperVWriter)

func mustGUID(id ID) vss.GUID {
	g, err := vss.ParseGUID(string(id))
	if err != nil {
		panic(err)
	}
	return g
}

// New implements [VSS].
func (system) New(context.Context) (Backup, error) {
	b, err := vss.OpenBackup(hyperVClass)
	if err != nil {
		return nil, explain(err)
	}
	return &native{b: b}, nil
}

// Volume implements [VSS].
func (system) Volume(ctx context.Context, folder string) (Volume, error) {
	if err := ctx.Err(); err != nil {
		return Volume{}, err
	}
	path, err := windows.UTF16PtrFromString(folder)
	if err != nil {
		return Volume{}, err
	}
	mount := make([]uint16, maxName+1)
	if err := windows.GetVolumePathName(path, &mount[0], uint32(len(mount))); err != nil {
		return Volume{}, &fs.PathError{Op: "volume of", Path: folder, Err: err}
	}
	v := Volume{Mount: windows.UTF16ToString(mount)}
	if strings.HasPrefix(v.Mount, `\\`) && !strings.HasPrefix(v.Mount, `\\?\`) { // a share is its own name
		v.Name = v.Mount
		return v, nil
	}
	var name [64]uint16 // \\?\Volume{GUID}\ and its end are 50
	if err := windows.GetVolumeNameForVolumeMountPoint(&mount[0], &name[0], uint32(len(name))); err != nil {
		return Volume{}, &fs.PathError{Op: "name of volume", Path: v.Mount, Err: err}
	}
	v.Name, v.Device = windows.UTF16ToString(name[:]), deviceOf(v.Mount)
	return v, nil
}

// deviceOf is the device of a mounted volume; empty where it cannot be looked at.
func deviceOf(mount string) string {
	f, err := os.Open(mount)
	if err != nil {
		return ""
	}
	defer f.Close()
	path, err := finalPath(windows.Handle(f.Fd()))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(path, `\`)
}

// handle is an open file of a shadow copy.
type handle struct {
	*os.File
	size int64
}

func (h *handle) Size() int64 { return h.size }

// Open implements [VSS].
func (system) Open(ctx context.Context, device, path string) (File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := open(device, path)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: errors.New("not a file")}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &handle{f, fi.Size()}, nil
}

// open opens a file or a folder below a shadow copy's device, and looks where that has led: a junction there may lead into
// production, which is not what was backed up.
func open(device, path string) (*os.File, error) {
	device = strings.TrimSuffix(device, `\`)
	f, err := os.Open(device + `\` + path)
	if err != nil {
		return nil, err
	}
	final, err := finalPath(windows.Handle(f.Fd()))
	if err != nil {
		return nil, errors.Join(&fs.PathError{Op: "look where it leads", Path: path, Err: err}, f.Close())
	}
	if _, inside := below(final, rootOf(device)); !inside {
		return nil, errors.Join(fmt.Errorf("%s leads out of the shadow copy, to %.200q: %w", path, final, fs.ErrPermission), f.Close())
	}
	return f, nil
}

// rootOf is how the system calls what a shadow copy's device leads to: \Device\HarddiskVolumeShadowCopy5, and \Device\Mup\fs1\vms@{…} where
// it is a share that shows the copy.
func rootOf(device string) string {
	if rest, ok := strings.CutPrefix(device, `\\?\GLOBALROOT`); ok {
		return rest
	}
	if rest, ok := strings.CutPrefix(device, `\\`); ok {
		return `\Device\Mup\` + rest
	}
	return device
}

// finalPath is \Device\HarddiskVolumeShadowCopy5\VMs\web1.vhdx.
func finalPath(h windows.Handle) (string, error) {
	const volumeNameNT = 0x2
	buffer := make([]uint16, maxName+1)
	n, err := windows.GetFinalPathNameByHandle(h, &buffer[0], uint32(len(buffer)), volumeNameNT)
	if err != nil {
		return "", err
	}
	return windows.UTF16ToString(buffer[:min(int(n), len(buffer))]), nil
}

// List implements [VSS].
func (system) List(ctx context.Context, device, path string) ([]Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := open(device, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := f.ReadDir(MaxEntries + 1)
	if len(all) > MaxEntries {
		return nil, fmt.Errorf("%s: more than %d entries", path, MaxEntries)
	}
	if len(all) == 0 { // with io.EOF
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []Entry
	for _, e := range all {
		one := Entry{Name: e.Name(), Dir: e.IsDir()}
		if fi, err := e.Info(); err == nil && !e.IsDir() {
			one.Size = fi.Size()
		}
		list = append(list, one)
	}
	return list, nil
}

// explain makes an error of the service one of ours.
func explain(err error) error {
	var e *vss.Error
	if !errors.As(err, &e) {
		return err
	}
	return &Error{Op: e.Op, Object: e.Object, Code: Code(e.Code), Text: e.Code.String(), Hint: e.Code.Hint(), Again: e.Code.Retryable()}
}
