package vmware

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

const (
	configXML     = "config.xml"
	maxConfig     = 16 << 20 // bytes of config.xml
	maxConfigFile = 4 << 20  // bytes of a .vmx or .nvram file
	configTimeout = 30 * time.Second
)

// takeConfig is the native configuration of a snapshot: what the server says of it, and the VM's own files byte for byte,
// where its datastore lets them be read. A file that cannot be had is a fact, and no error: the description is enough to make
// the VM again.
func (c *Client) takeConfig(ctx context.Context, m *machine, config *types.VirtualMachineConfigInfo, facts map[string]string) (map[string][]byte, error) {
	text, err := encodeConfig(config)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{configXML: text}
	ctx, cancel := context.WithTimeout(ctx, configTimeout)
	defer cancel()
	files := configFiles(m)
	all, err := storesOf(ctx, c, m.Self)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		data, fileErr := []byte(nil), err
		if fileErr == nil {
			data, fileErr = c.configFile(ctx, all, files[name])
		}
		if fileErr != nil {
			facts["missing "+name] = fileErr.Error()
			continue
		}
		out[name] = data
	}
	return out, nil
}

// configFiles are where a VM's own files lie, by the names that they get in a point.
func configFiles(m *machine) map[string]string {
	out := map[string]string{}
	if at := m.Config.Files.VmPathName; at != "" {
		out[configName(m.Name, ".vmx")] = at
	}
	if m.LayoutEx != nil {
		for _, f := range m.LayoutEx.File {
			if f.Type == string(types.VirtualMachineFileLayoutExFileTypeNvram) {
				out[configName(m.Name, ".nvram")] = f.Name
			}
		}
	}
	return out
}

// configName is a VM's name as a name of a blob: names of VMs hold anything.
func configName(vm, ending string) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || strings.ContainsRune(`/\:*?"<>|%`, r) || r == 0x7f {
			return '_'
		}
		return r
	}, vm)
	if clean = strings.Trim(clean, ". "); clean == "" || len(clean) > 128 {
		clean = "vm"
	}
	return clean + ending
}

func (c *Client) configFile(ctx context.Context, all stores, name string) ([]byte, error) {
	at, err := all.find(name)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fileURL(c, at).String(), nil)
	if err != nil {
		return nil, err
	}
	res, err := c.HTTP().Do(req)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", at, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%v: the server answers %s", at, res.Status)
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxConfigFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%v: %w", at, err)
	case len(data) > maxConfigFile:
		return nil, fmt.Errorf("%v: it is larger than %d bytes", at, maxConfigFile)
	case res.ContentLength >= 0 && int64(len(data)) != res.ContentLength:
		return nil, fmt.Errorf("%v: %d of %d bytes came: %w", at, len(data), res.ContentLength, io.ErrUnexpectedEOF)
	}
	return data, nil
}

// encodeConfig writes a configuration as the server's protocol does, as a document of its own.
func encodeConfig(config *types.VirtualMachineConfigInfo) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(xml.Header)
	enc := xml.NewEncoder(&b)
	enc.Indent("", "  ")
	start := xml.StartElement{Name: xml.Name{Local: "config"}, Attr: []xml.Attr{
		{Name: xml.Name{Local: "xmlns"}, Value: "urn:vim25"},
		{Name: xml.Name{Local: "xmlns:xsi"}, Value: "http://www.w3.org/2001/XMLSchema-instance"},
		{Name: xml.Name{Local: "xmlns:xsd"}, Value: "http://www.w3.org/2001/XMLSchema"},
	}}
	if err := enc.EncodeElement(config, start); err != nil {
		return nil, fmt.Errorf("%s: %w", configXML, err)
	}
	if err := enc.Flush(); err != nil {
		return nil, fmt.Errorf("%s: %w", configXML, err)
	}
	if b.WriteByte('\n'); b.Len() > maxConfig {
		return nil, fmt.Errorf("%s: it would be %d bytes", configXML, b.Len())
	}
	return b.Bytes(), nil
}

// ParseConfig reads the config.xml of a restore point. What stands there may have been damaged or made up: that is an error
// that wraps fs.ErrInvalid.
func ParseConfig(data []byte) (*types.VirtualMachineConfigInfo, error) {
	if len(data) > maxConfig {
		return nil, fmt.Errorf("%s: %w: %d bytes", configXML, fs.ErrInvalid, len(data))
	}
	if err := shallow(data); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", configXML, fs.ErrInvalid, err)
	}
	config, err := decodeConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", configXML, fs.ErrInvalid, err)
	}
	return config, nil
}

const maxDepth = 64 // of elements in config.xml

// shallow bounds how deep elements nest: decoders call themselves for each.
func shallow(text []byte) error {
	d, depth := xml.NewDecoder(bytes.NewReader(text)), 0
	for {
		t, err := d.RawToken()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("at byte %d: %w", d.InputOffset(), err)
		}
		switch t.(type) {
		case xml.StartElement:
			depth++
		case xml.EndElement:
			depth--
		}
		if depth > maxDepth {
			return fmt.Errorf("at byte %d: elements nest deeper than %d", d.InputOffset(), maxDepth)
		}
	}
}

// decodeConfig turns what the decoder makes of a type in the wrong place, which is a panic of package reflect, into an error.
func decodeConfig(text []byte) (config *types.VirtualMachineConfigInfo, err error) {
	dec := xml.NewDecoder(bytes.NewReader(text))
	dec.TypeFunc = types.TypeFunc()
	defer func() {
		if p := recover(); p != nil {
			config, err = nil, fmt.Errorf("at byte %d: an element is of a type that cannot stand there: %v", dec.InputOffset(), p)
		}
	}()
	config = &types.VirtualMachineConfigInfo{}
	if err := dec.Decode(config); err != nil {
		return nil, fmt.Errorf("at byte %d: %w", dec.InputOffset(), err)
	}
	return config, nil
}
