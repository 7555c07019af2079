package hypervtest

import (
	"encoding/xml"
	"errors"
	"strings"
)

// errEmbedded says that a parameter's text is no instance.
var errEmbedded = errors.New("the text is no instance")

// instance is CIM-XML as methods take it: DSP0201, and WMI's DTD 2.0.
type instance struct {
	XMLName    xml.Name `xml:"INSTANCE"`
	Class      string   `xml:"CLASSNAME,attr"`
	Properties []struct {
		Name  string  `xml:"NAME,attr"`
		Type  string  `xml:"TYPE,attr"`
		Value *string `xml:"VALUE"`
	} `xml:"PROPERTY"`
	Arrays []struct {
		Name   string `xml:"NAME,attr"`
		Type   string `xml:"TYPE,attr"`
		Values *struct {
			List []string `xml:"VALUE"`
		} `xml:"VALUE.ARRAY"`
	} `xml:"PROPERTY.ARRAY"`
	References []struct {
		Name string `xml:"NAME,attr"`
		Path struct {
			Names []struct {
				Class string `xml:"CLASSNAME,attr"`
				Keys  []struct {
					Name  string `xml:"NAME,attr"`
					Value string `xml:"KEYVALUE"`
				} `xml:"KEYBINDING"`
			} `xml:"INSTANCENAME"`
		} `xml:"VALUE.REFERENCE>INSTANCEPATH"`
	} `xml:"PROPERTY.REFERENCE"`
}

// parseEmbedded reads an instance that travels as text. Values are texts, whatever their type; a reference is a path.
func parseEmbedded(text string) (*Object, error) {
	in := &instance{}
	if err := xml.Unmarshal([]byte(text), in); err != nil || in.Class == "" {
		return nil, errors.Join(errEmbedded, err)
	}
	o := NewObject(in.Class)
	for _, p := range in.Properties {
		if p.Value == nil {
			o.Set(p.Name, nil)
		} else {
			o.Set(p.Name, typed(p.Type, *p.Value))
		}
	}
	for _, p := range in.Arrays {
		if p.Values == nil {
			o.Set(p.Name, nil)
		} else {
			o.Set(p.Name, append([]string{}, p.Values.List...))
		}
	}
	for _, p := range in.References {
		for _, n := range p.Path.Names {
			var keys []string
			for _, k := range n.Keys {
				keys = append(keys, k.Name+`="`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(k.Value)+`"`)
			}
			o.Set(p.Name, n.Class+"."+strings.Join(keys, ","))
		}
	}
	return o, nil
}

// typed keeps booleans as such, which are written as TRUE and FALSE.
func typed(kind, text string) any {
	if strings.EqualFold(kind, "boolean") {
		return strings.EqualFold(text, "true")
	}
	return text
}
