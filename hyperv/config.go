package hyperv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/hikae/hikae/hyperv/cim"
)

// SettingsFile is the name in VM.Config of our own record of a VM's settings: what a planned VM is made of where the host's files
// cannot be imported. It is JSON of [Settings].
const SettingsFile = "settings.json"

// Settings are the setting objects of a VM at one moment, as CIM-XML.
type Settings struct {
	Version int             `json:"version"` // 1
	VM      string          `json:"vm"`      // GUID
	Host    string          `json:"host"`
	Build   int             `json:"build"`
	System  SettingObject   `json:"system"`           // Msvm_VirtualSystemSettingData
	Parts   []SettingObject `json:"parts"`            // processors, memory, controllers, drives, disks, adapters …
	Untold  []string        `json:"untold,omitempty"` // what the host did not tell, in words
}

// SettingObject is one of them.
type SettingObject struct {
	Class string `json:"class"`
	ID    string `json:"id"` // InstanceID
	XML   string `json:"xml"`
	On    string `json:"on,omitempty"` // of what hangs on a part: that part's id
}

const (
	settingsVersion = 1
	maxParts        = 4096
)

// realized decodes the VM's present settings.
func (h *Host) realized(ctx context.Context, vm string, to any) error {
	in, err := h.presentSettings(ctx, vm)
	if err != nil {
		return err
	}
	return in.Decode(to)
}

func (h *Host) presentSettings(ctx context.Context, vm string) (*cim.Instance, error) {
	ref, err := h.vmRef(ctx, vm)
	if err != nil {
		return nil, err
	}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	all, err := cim.All(h.client.Associators(ctx, ref, cim.Hop{Result: settingClass}, nil))
	if err != nil {
		return nil, err
	}
	return present(all)
}

// config is the native configuration as the checkpoint's files have it, byte for byte (R103), by the names of the files, and our record of
// its settings beside them. That the virtual TPM's state is among them is what lets a guest start that has sealed keys to it.
func (s *snapshot) config(ctx context.Context, h *Host, in *cim.Instance, ref cim.Ref) (map[string][]byte, error) {
	out := map[string][]byte{}
	settings, err := h.settings(ctx, s.marked.vm, in, ref)
	if err != nil {
		return nil, err
	}
	if out[SettingsFile], err = json.Marshal(settings); err != nil {
		return nil, err
	}
	err = s.configFiles(ctx, in, out)
	switch {
	case err != nil && s.planned.plan.Mode == OffHost:
		s.warn("the checkpoint's configuration files are not in the point: %v", err)
	case err != nil:
		return nil, fmt.Errorf("configuration: %w", err)
	case len(out) == 1:
		s.warn("the checkpoint's configuration files are not where its host says: the point has its settings and no more")
	}
	return out, nil
}

func (s *snapshot) configFiles(ctx context.Context, in *cim.Instance, out map[string][]byte) error {
	files, err := s.source(ctx)
	if err != nil {
		return err
	}
	base, err := configBase(in)
	if err != nil {
		return err
	}
	total := 0
	for _, ending := range configFiles {
		data, err := readConfigFile(ctx, files, base+ending)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case errors.Is(err, errConfigLarge):
			s.warn("%v: it is not in the point", err)
			continue
		case err != nil:
			return err
		}
		if total += len(data); total > maxConfig {
			return fmt.Errorf("%s: the files are longer than %d bytes together", base+ending, maxConfig)
		}
		out[fileName(base)+ending] = data
	}
	return nil
}

// configBase is the name of a checkpoint's configuration files without their endings.
func configBase(in *cim.Instance) (string, error) {
	id := in.Text("ConfigurationID")
	if !isGUID(id) {
		_, id, _ = strings.Cut(in.Text("InstanceID"), ":")
	}
	root := in.Text("SnapshotDataRoot")
	if root == "" {
		root = in.Text("ConfigurationDataRoot")
	}
	if !isGUID(id) || root == "" {
		return "", fmt.Errorf("%w: checkpoint %.80q in %.200q", cim.ErrMalformed, in.Text("ConfigurationID"), root)
	}
	return strings.TrimRight(root, `\`) + `\Snapshots\` + id, nil
}

// settings are the objects that a checkpoint's configuration is made of.
func (h *Host) settings(ctx context.Context, vm string, in *cim.Instance, ref cim.Ref) (*Settings, error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	s := &Settings{Version: settingsVersion, VM: vm, Host: h.info.Name, Build: h.info.Build}
	var err error
	if s.System, err = settingObject(in); err != nil {
		return nil, err
	}
	parts, err := cim.All(h.client.Associators(ctx, ref, cim.Hop{Association: "Msvm_VirtualSystemSettingDataComponent"}, nil))
	if err != nil {
		return nil, fmt.Errorf("settings of VM %s: %w", vm, err)
	}
	if len(parts) > maxParts {
		return nil, fmt.Errorf("VM %s: %w: %d settings", vm, cim.ErrMalformed, len(parts))
	}
	for _, p := range parts {
		o, err := settingObject(p)
		if err != nil {
			return nil, fmt.Errorf("settings of VM %s: %w", vm, err)
		}
		s.Parts = append(s.Parts, o)
	}
	if err := h.features(ctx, s, parts); err != nil {
		return nil, fmt.Errorf("settings of VM %s: %w", vm, err)
	}
	return s, nil
}

func settingObject(in *cim.Instance) (SettingObject, error) {
	text, err := in.XML()
	return SettingObject{Class: in.Class, ID: in.Text("InstanceID"), XML: string(text)}, err
}
