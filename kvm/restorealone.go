package kvm

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"slices"
	"strings"
)

// A restored disk holds all of its content itself, and leaves out what is zero. A backing file that the old disk stood on,
// and that is still named, would show through there: the guest would read old data where the point has zeros.

// alone takes away what the command line puts below a disk that was moved to a file. node is the top one of its nodes.
func (e *commandEdit) alone(to, node string) {
	names := map[string]bool{node: node != ""}
	for again := true; again; { // a node may be named before the one that it stands on
		again = false
		for i, arg := range e.args {
			changed, name := e.aloneIn(arg, to, names)
			e.args[i] = changed
			if name != "" && !names[name] {
				names[name], again = true, true
			}
		}
	}
}

// aloneIn changes one argument, and names the node that it makes of the disk.
func (e *commandEdit) aloneIn(arg, to string, names map[string]bool) (changed, name string) {
	if strings.HasPrefix(arg, "{") {
		return e.aloneInJSON(arg, to, names)
	}
	options := splitOptions(arg)
	values := map[string]string{}
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		values[key] = value
	}
	ours := names[values["node-name"]] || names[values["file"]] ||
		slices.ContainsFunc([]string{"file", "filename", "file.filename", "file.file.filename"}, func(key string) bool { return values[key] == to })
	if !ours {
		return arg, ""
	}
	e.sliced(values["offset"] + values["size"])
	kept := slices.DeleteFunc(slices.Clone(options), func(o string) bool {
		key, _, ok := strings.Cut(o, "=")
		return ok && (key == "backing" || strings.HasPrefix(key, "backing."))
	})
	if len(kept) == len(options) {
		return arg, values["node-name"]
	}
	e.note("the backing file under %s was left out", to)
	return joinOptions(kept), values["node-name"]
}

func (e *commandEdit) aloneInJSON(arg, to string, names map[string]bool) (changed, name string) {
	decoder := json.NewDecoder(strings.NewReader(arg))
	decoder.UseNumber()
	var value map[string]any
	if decoder.Decode(&value) != nil || !e.aloneInValue(value, to, names) {
		return arg, ""
	}
	name, _ = value["node-name"].(string)
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(value) != nil {
		return arg, name
	}
	return strings.TrimSuffix(out.String(), "\n"), name
}

// aloneInValue reports whether a node is one of the disk's.
func (e *commandEdit) aloneInValue(v map[string]any, to string, names map[string]bool) bool {
	name, _ := v["node-name"].(string)
	ours := names[name] || v["filename"] == to
	switch below := v["file"].(type) {
	case string:
		ours = ours || names[below]
	case map[string]any:
		ours = e.aloneInValue(below, to, names) || ours
	}
	if !ours {
		return false
	}
	if v["offset"] != nil || v["size"] != nil {
		e.sliced("a part")
	}
	if v["backing"] != nil {
		delete(v, "backing")
		e.note("the backing file under %s was left out", to)
	}
	return true
}

// sliced: a disk that was a part of a file is all of one now.
func (e *commandEdit) sliced(part string) {
	const why = "a disk was a part of a file (offset, size), and is all of one now: take these options away"
	if part != "" && !slices.Contains(e.stops, why) {
		e.stop("%s", why)
	}
}

// aloneInXML does the same with libvirt's description: of disks whose source is one of the files, the backing stores go.
func aloneInXML(text string, files map[string]bool) (string, error) {
	decoder := xml.NewDecoder(strings.NewReader(text))
	type span struct{ from, to int64 }
	var stores, cut []span // of the disk that is being read; of all
	var open []string
	ours, began := false, int64(0)
	for {
		before := decoder.InputOffset()
		token, err := decoder.Token()
		if token == nil {
			if err != io.EOF {
				return text, err
			}
			break
		}
		switch t := token.(type) {
		case xml.StartElement:
			open = append(open, t.Name.Local)
			depth := slices.Index(open, "disk")
			switch {
			case depth < 0:
			case depth == len(open)-1:
				ours, stores = false, nil
			case len(open) == depth+2 && t.Name.Local == "backingStore":
				began = before
			case len(open) == depth+2 && t.Name.Local == "source":
				for _, a := range t.Attr {
					ours = ours || files[a.Value]
				}
			}
		case xml.EndElement:
			depth := slices.Index(open, "disk")
			if depth >= 0 && len(open) == depth+2 && t.Name.Local == "backingStore" {
				stores = append(stores, span{began, decoder.InputOffset()})
			}
			if depth >= 0 && depth == len(open)-1 && ours {
				cut = append(cut, stores...)
			}
			open = open[:len(open)-1]
		}
	}
	for _, s := range slices.Backward(cut) {
		text = text[:s.from] + "<backingStore/>" + text[s.to:]
	}
	return text, nil
}
