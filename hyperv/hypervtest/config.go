package hypervtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

// A VM's configuration lies in files as with a real host, by name and place; what is in them is our own, as the real format is not documented:
//
//	<folder>\Virtual Machines\<GUID>.vmcx .vmrs .vmgs      2016 and later; before, .xml
//	<folder>\Snapshots\<GUID>.vmcx .vmrs .vmgs             of a checkpoint
type config struct {
	ID, Name, Version, OS string
	Objects               []configObject // settings first, then their parts
}

type configObject struct {
	Class  string
	Names  []string
	Texts  map[string]string
	Lists  map[string][]string
	Bools  map[string]bool
	Absent []string
}

const configMagic = "hypervtest configuration\n"

func (h *Host) configEnding() string {
	if h.gen.since("2016") {
		return ".vmcx"
	}
	return ".xml"
}

// configNames are the files of a configuration without the folder's name.
func (h *Host) configNames(base string) []string {
	if h.gen.since("2016") {
		return []string{base + ".vmcx", base + ".vmrs", base + ".vmgs"}
	}
	return []string{base + ".xml"}
}

func (h *Host) encodeConfig(g *Guest, set *Object) ([]byte, error) {
	c := config{ID: strings.ToUpper(g.id), Name: g.name, OS: g.os}
	c.Version, _ = set.text("Version")
	for _, o := range append([]*Object{set}, h.parts(set)...) {
		p := configObject{Class: o.Class, Names: o.Names, Texts: map[string]string{}, Lists: map[string][]string{}, Bools: map[string]bool{}}
		for _, n := range o.Names {
			switch v := o.Values[n].(type) {
			case nil:
				p.Absent = append(p.Absent, n)
			case []string:
				p.Lists[n] = v
			case bool:
				p.Bools[n] = v
			default:
				p.Texts[n] = textOf(v)
			}
		}
		c.Objects = append(c.Objects, p)
	}
	b, err := json.MarshalIndent(c, "", " ")
	return append([]byte(configMagic), b...), err
}

func decodeConfig(b []byte) (*config, error) {
	b, ok := bytes.CutPrefix(b, []byte(configMagic))
	c := &config{}
	if err := json.Unmarshal(b, c); !ok || err != nil || len(c.Objects) == 0 {
		return nil, errors.Join(&FaultError{Code: 32768, Reason: "the configuration file is damaged"}, err)
	}
	return c, nil
}

// object is one of a configuration's.
func (p *configObject) object() *Object {
	o := NewObject(p.Class)
	for _, n := range p.Names {
		if v, ok := p.Lists[n]; ok {
			o.Set(n, slices.Clone(v))
		} else if v, ok := p.Bools[n]; ok {
			o.Set(n, v)
		} else if v, ok := p.Texts[n]; ok {
			o.Set(n, v)
		} else {
			o.Set(n, nil)
		}
	}
	return o
}

func (g *Guest) saveConfig() error {
	return g.h.saveFiles(g, g.set, g.folder+`\Virtual Machines\`+strings.ToUpper(g.id))
}

func (g *Guest) saveSnapshotConfig(cp *checkpoint) error {
	return g.h.saveFiles(g, cp.object, g.folder+`\Snapshots\`+cp.id)
}

func (g *Guest) removeSnapshotConfig(cp *checkpoint) (err error) {
	for _, n := range g.h.configNames(g.folder + `\Snapshots\` + cp.id) {
		err = errors.Join(err, g.h.remove(n))
	}
	return err
}

func (h *Host) saveFiles(g *Guest, set *Object, base string) error {
	b, err := h.encodeConfig(g, set)
	if err != nil {
		return err
	}
	for _, n := range h.configNames(base) {
		_, ending := stem(n)
		switch ending {
		case ".vmrs", ".vmgs":
			if h.exists(n) {
				continue // it is the machine's own, and whoever restores puts it there
			}
		}
		switch ending {
		case ".vmrs":
			b = append([]byte("hypervtest runtime state\n"), bytes.Repeat([]byte(g.id), 200)...)
		case ".vmgs":
			b = append([]byte("hypervtest guest state\n"), g.tpm()...)
		}
		if err := h.write(n, b); err != nil {
			return err
		}
	}
	return nil
}

const secretMark = "secret of the machine: "

// tpm stands for what a virtual TPM keeps: other bytes than any other VM's.
func (g *Guest) tpm() []byte { return bytes.Repeat([]byte(secretMark+g.secret+"\n"), 64) }

// recall takes what the virtual TPM keeps from a file, where it is there.
func (g *Guest) recall(name string) {
	b, err := g.h.read(name)
	if err != nil {
		return
	}
	if _, rest, ok := strings.Cut(string(b), secretMark); ok {
		g.secret, _, _ = strings.Cut(rest, "\n")
	}
}

// Secret is what the VM's virtual TPM keeps: a VM that was restored with its guest state has the same.
func (g *Guest) Secret() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.secret
}
