package vss

import (
	"context"
	"fmt"
	"unsafe"
)

// Writers gathers the writers' metadata. It is freed by Close: components can be added only as long as it is there.
func (c *components) Writers(ctx context.Context) ([]Writer, error) {
	if err := c.async(ctx, slotGatherWriterMetadata, "GatherWriterMetadata"); err != nil {
		return nil, err
	}
	c.gathered = true
	var writers []Writer
	err := c.t.do(ctx, func() error {
		var n uint32
		if err := out(c.backup.method(slotGetWriterMetadataCount), &n).run("GetWriterMetadataCount", ""); err != nil {
			return err
		}
		if n > maxWriters {
			return fmt.Errorf("%d writers, at most %d", n, maxWriters)
		}
		for i := range n {
			if err := ctx.Err(); err != nil {
				return err
			}
			w, err := c.writer(i)
			if err != nil {
				return err
			}
			writers = append(writers, w)
		}
		return nil
	})
	return writers, err
}

// writer reads the metadata of one writer.
func (c *components) writer(i uint32) (w Writer, err error) {
	var meta *object
	get := out(out(c.backup.method(slotGetWriterMetadata).number(uintptr(i)), &w.Instance), &meta)
	if err := get.run("GetWriterMetadata", ""); err != nil {
		return w, err
	}
	defer meta.release()
	var instance GUID
	var name bstr
	var source uint32
	id := out(out(out(out(out(meta.method(slotGetIdentity), &instance), &w.Class), &name.p), &w.Usage), &source)
	if err := id.run("GetIdentity", ""); err != nil {
		return w, err
	}
	w.Name = name.take(maxText)
	var include, exclude, parts uint32
	if err := out(out(out(meta.method(slotGetFileCounts), &include), &exclude), &parts).run("GetFileCounts", w.Name); err != nil {
		return w, err
	}
	if parts > maxComponents {
		return w, fmt.Errorf("writer %s: %d components, at most %d", shown(w.Name), parts, maxComponents)
	}
	for k := range parts {
		part, err := component(meta, k, w.Name, c.describe == w.Class)
		if err != nil {
			return w, err
		}
		w.Components = append(w.Components, part)
	}
	var doc bstr
	if err := out(meta.method(slotMetadataSaveAsXML), &doc.p).run("SaveAsXML", w.Name); err != nil {
		return w, err
	}
	w.Document = doc.take(maxDocument / 2)
	return w, nil
}

// componentInfo is VSS_COMPONENTINFO.
type componentInfo struct {
	Type                 uint32
	Path, Name, Caption  *uint16
	Icon                 unsafe.Pointer
	IconSize             uint32
	restore, notify      byte
	Selectable           byte
	selectableForRestore byte
	Flags                uint32
	Files, Databases     uint32
	Logs, dependencies   uint32
}

// component reads one component of a writer, with its file descriptions where they are asked for: some writers have
// tens of thousands.
func component(meta *object, i uint32, writer string, describe bool) (part Component, err error) {
	var c *object
	if err := out(meta.method(slotGetComponent).number(uintptr(i)), &c).run("GetComponent", writer); err != nil {
		return part, err
	}
	defer c.release()
	var info *componentInfo
	if err := out(c.method(slotGetComponentInfo), &info).run("GetComponentInfo", writer); err != nil {
		return part, err
	}
	defer func() { c.method(slotFreeComponentInfo).pointer(unsafe.Pointer(info)).do() }()
	part = Component{Type: ComponentType(info.Type), Path: peek(info.Path, maxPath), Name: peek(info.Name, maxPath),
		Caption: peek(info.Caption, maxPath), Selectable: info.Selectable != 0}
	if describe {
		if part.Files, err = fileSets(c, info.Files, part.String()); err != nil {
			return part, err
		}
	}
	for _, files := range []struct {
		slot  int
		count uint32
	}{{slotGetFile, info.Files}, {slotGetDatabaseFile, info.Databases}, {slotGetDatabaseLogFile, info.Logs}} {
		for k := range min(files.count, maxFolders) {
			if folder := folder(c, files.slot, k); folder != "" {
				part.Folders = append(part.Folders, folder)
			}
		}
	}
	return part, nil
}

// fileSets reads a component's file descriptions. They are what a backup is made of: one that cannot be read is an error.
func fileSets(c *object, count uint32, name string) ([]FileSet, error) {
	if count > maxFileSets {
		return nil, fmt.Errorf("component %s: %d files, at most %d", name, count, maxFileSets)
	}
	all := make([]FileSet, 0, count)
	for i := range count {
		one, err := fileSet(c, i, name)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

func fileSet(c *object, i uint32, name string) (f FileSet, err error) {
	var desc *object
	if err := out(c.method(slotGetFile).number(uintptr(i)), &desc).run("GetFile", name); err != nil {
		return f, err
	}
	defer desc.release()
	var path, spec bstr
	if err := out(desc.method(slotGetPath), &path.p).run("GetPath", name); err != nil {
		return f, err
	}
	f.Path = path.take(maxPath)
	if err := out(desc.method(slotGetFilespec), &spec.p).run("GetFilespec", name); err != nil {
		return f, err
	}
	f.Spec = spec.take(maxPath)
	var recursive byte
	err = out(desc.method(slotGetRecursive), &recursive).run("GetRecursive", name)
	f.Recursive = recursive != 0
	return f, err
}

// maxPath is the longest path that Windows has, in units.
const maxPath = 32767

// folder is where one set of files is. Folders are for people: one that cannot be read is left out.
func folder(c *object, slot int, i uint32) string {
	var desc *object
	if out(c.method(slot).number(uintptr(i)), &desc).do().Failed() || desc == nil {
		return ""
	}
	defer desc.release()
	var path bstr
	if out(desc.method(slotGetPath), &path.p).do().Failed() {
		return ""
	}
	return path.take(maxPath)
}

func (c *components) Status(ctx context.Context) ([]Status, error) {
	if err := c.async(ctx, slotGatherWriterStatus, "GatherWriterStatus"); err != nil {
		return nil, err
	}
	var all []Status
	err := c.t.do(ctx, func() error {
		defer func() { c.backup.method(slotFreeWriterStatus).do() }()
		var n uint32
		if err := out(c.backup.method(slotGetWriterStatusCount), &n).run("GetWriterStatusCount", ""); err != nil {
			return err
		}
		for i := range min(n, maxWriters) {
			var s Status
			var class GUID
			var name bstr
			get := out(out(c.backup.method(slotGetWriterStatus).number(uintptr(i)), &s.Instance), &class)
			get = out(out(out(get, &name.p), &s.State), &s.Code)
			if err := get.run("GetWriterStatus", ""); err != nil {
				return err
			}
			s.Name = name.take(maxText)
			all = append(all, s)
		}
		return nil
	})
	return all, err
}
