package vss

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"

	"github.com/hikae/hikae/guest/agent/wire"
)

// kind is that of our applications and records.
const kind = "vss"

// Bounds of records: all of them fit into one answer, which carries them in base64 with those of other applications.
const (
	plainRecord = 64 << 10  // bytes; a longer document is compressed and its file's name ends in .gz
	allRecords  = 512 << 10 // bytes of content
	maxDocument = 64 << 20  // bytes of XML that are taken from the service
)

// summary is writers.json: what was found, for people and programs that read it without Windows.
type summary struct {
	Mode       string          `json:"mode"`
	Backup     string          `json:"backup"` // full or copy
	Unverified string          `json:"unverified"`
	Writers    []writerSummary `json:"writers"`
	Shadows    []Shadow        `json:"shadows,omitempty"`
	Left       []string        `json:"left,omitempty"` // documents that were too large
}

type writerSummary struct {
	Name       string   `json:"name"`
	Class      string   `json:"class"`
	Instance   string   `json:"instance"`
	State      string   `json:"state"`
	Problem    string   `json:"problem,omitempty"`
	Components []string `json:"components,omitempty"` // that were added
	Document   string   `json:"document,omitempty"`   // the record's file
}

// records makes the files that are kept with the point. The backup components document comes first: without it no
// restore through VSS is possible, so that it alone is an error when it does not fit. The writers' own documents come
// as far as there is room, in their order.
func records(components string, sum summary, documents map[string]string) ([]wire.Record, error) {
	room := allRecords
	var out []wire.Record
	put := func(file, content string) (string, bool) {
		file, data := packed(file, content)
		if len(data) > room {
			return "", false
		}
		room -= len(data)
		out = append(out, wire.Record{Kind: kind, Name: "components", File: file, Content: data})
		return file, true
	}
	var err error
	if components != "" {
		if _, fits := put("components.xml", components); !fits {
			err = fmt.Errorf("the backup components document of %d bytes does not fit into %d", len(components), allRecords)
			sum.Left = append(sum.Left, "components.xml")
		}
	}
	room -= plainRecord // for the summary
	for i, w := range sum.Writers {
		doc := documents[w.Instance]
		if doc == "" {
			continue
		}
		name := fmt.Sprintf("writer-%s.xml", trimBraces(w.Instance))
		file, fits := put(name, doc)
		if !fits {
			sum.Left = append(sum.Left, name)
		}
		sum.Writers[i].Document = file
	}
	room += plainRecord
	text, jsonErr := json.MarshalIndent(sum, "", " ")
	if jsonErr != nil {
		return out, jsonErr
	}
	if _, fits := put("writers.json", string(text)); !fits && err == nil {
		err = fmt.Errorf("the list of writers of %d bytes does not fit", len(text))
	}
	return out, err
}

func trimBraces(s string) string {
	if len(s) > 2 && s[0] == '{' {
		return s[1 : len(s)-1]
	}
	return s
}

// packed compresses what is long.
func packed(file, content string) (string, []byte) {
	if len(content) <= plainRecord {
		return file, []byte(content)
	}
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level is valid
	z.Write([]byte(content))                              // a buffer takes all
	z.Close()
	return file + ".gz", b.Bytes()
}
