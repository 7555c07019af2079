package vmdk

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// CID is a content id: a disk gets another one when it is first written to after it was opened.
type CID uint32

// NoParent is the parent's CID of a disk that has none.
const NoParent CID = math.MaxUint32

func (c CID) String() string { return fmt.Sprintf("%08x", uint32(c)) }

// Access says what may be done with an extent.
type Access string

// The words of the format.
const (
	ReadWrite Access = "RW"
	ReadOnly  Access = "RDONLY"
	NoAccess  Access = "NOACCESS"
)

// ExtentLine is one line of a descriptor: the disk is its extents, one after the other.
type ExtentLine struct {
	Access  Access
	Sectors int64  // of 512 bytes
	Type    string // FLAT, SPARSE, ZERO, VMFS, VMFSSPARSE, SESPARSE, or what else there is
	File    string // as it stands there; empty for ZERO
	Offset  int64  // of a flat extent's first sector in its file, in sectors
}

// Descriptor is the text that says what a disk is made of.
type Descriptor struct {
	CID        CID
	ParentCID  CID
	CreateType string // monolithicSparse, vmfs …
	ParentHint string // parentFileNameHint; empty without a parent
	Extents    []ExtentLine
	DDB        map[string]string // the disk data base: adapter, geometry, uuid …, by their names without "ddb."
}

const (
	maxDescriptor = 1 << 20 // bytes; one for 8 TiB in extents of 2 GiB takes a third of it
	maxExtents    = 8192    // of one disk, and files of a chain
	maxSectors    = 1 << 52 // so that sums of byte offsets stay far from overflowing
	sector        = 512
	descriptorTag = "# disk descriptorfile"
)

var extentLine = regexp.MustCompile(`^(RW|RDONLY|NOACCESS)[ \t]+([0-9]{1,19})[ \t]+([A-Za-z0-9]{1,32})(?:[ \t]+"([^"]*)"(?:[ \t]+([0-9]{1,19}))?.*)?$`)

// ParseDescriptor takes a descriptor apart. path is for errors, which are *CorruptError with the offset of the line.
// What stands after a zero byte is padding. Lines that are not known are passed over.
func ParseDescriptor(path string, text []byte) (*Descriptor, error) {
	p := parser{path: path, d: &Descriptor{ParentCID: NoParent, DDB: make(map[string]string)}, seen: make(map[string]bool)}
	if len(text) > maxDescriptor {
		return nil, p.fail("the descriptor has %d bytes", len(text))
	}
	body, _, _ := strings.Cut(string(text), "\x00")
	body = strings.TrimPrefix(body, "\ufeff")
	if !strings.HasPrefix(strings.ToLower(body), descriptorTag) {
		return nil, p.fail("it does not begin as a descriptor")
	}
	for line := range strings.Lines(body) {
		if err := p.line(strings.TrimSpace(line)); err != nil {
			return nil, err
		}
		p.at += int64(len(line))
	}
	return p.d, p.whole()
}

type parser struct {
	path string
	at   int64 // of the line
	d    *Descriptor
	seen map[string]bool
	sum  int64 // sectors
}

func (p *parser) fail(format string, args ...any) error {
	return &CorruptError{Path: p.path, Offset: p.at, Reason: fmt.Sprintf(format, args...)}
}

func (p *parser) line(line string) error {
	word, _, _ := strings.Cut(line, " ")
	switch {
	case line == "" || line[0] == '#':
		return nil
	case slices.Contains([]Access{ReadWrite, ReadOnly, NoAccess}, Access(word)):
		return p.extent(line)
	}
	key, value, ok := strings.Cut(line, "=")
	if !ok {
		return nil
	}
	return p.setting(strings.TrimSpace(key), strings.TrimSpace(value))
}

// setting takes key = value. One that decides what is read must not be there twice: readers would disagree.
func (p *parser) setting(key, value string) (err error) {
	value = unquote(value)
	if name, ok := strings.CutPrefix(key, "ddb."); ok {
		p.d.DDB[name] = value
		return nil
	}
	switch key {
	case "CID":
		p.d.CID, err = p.cid(value)
	case "parentCID":
		p.d.ParentCID, err = p.cid(value)
	case "createType":
		p.d.CreateType = value
	case "parentFileNameHint":
		p.d.ParentHint = value
	default:
		return nil
	}
	if p.seen[key] {
		return p.fail("%s is there twice", key)
	}
	p.seen[key] = true
	return err
}

func unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

func (p *parser) cid(value string) (CID, error) {
	n, err := strconv.ParseUint(value, 16, 32)
	if err != nil {
		return 0, p.fail("%q is no content id", value)
	}
	return CID(n), nil
}

func (p *parser) extent(line string) error {
	m := extentLine.FindStringSubmatch(line)
	if m == nil {
		return p.fail("%.100q is no extent", line)
	}
	sectors, err := strconv.ParseInt(m[2], 10, 64)
	if err != nil || sectors > maxSectors-p.sum {
		return p.fail("an extent of %s sectors", m[2])
	}
	e := ExtentLine{Access: Access(m[1]), Sectors: sectors, Type: strings.ToUpper(m[3]), File: m[4]}
	if m[5] != "" && e.File != "" {
		if e.Offset, err = strconv.ParseInt(m[5], 10, 64); err != nil || e.Offset > maxSectors {
			return p.fail("an extent at sector %s", m[5])
		}
	}
	if e.File == "" && e.Type != "ZERO" && e.Access != NoAccess {
		return p.fail("an extent of type %s without a file", e.Type)
	}
	p.sum += sectors
	p.d.Extents = append(p.d.Extents, e)
	if len(p.d.Extents) > maxExtents {
		return p.fail("more than %d extents", maxExtents)
	}
	return nil
}

// whole checks what only the whole descriptor shows.
func (p *parser) whole() error {
	switch {
	case !p.seen["CID"]:
		return p.fail("it has no CID")
	case len(p.d.Extents) == 0:
		return p.fail("it has no extents")
	case p.d.ParentCID == NoParent && p.d.ParentHint != "":
		return p.fail("it names the parent %q, and no content id of it", p.d.ParentHint)
	}
	return nil
}

// Append appends the descriptor's text to b. What is parsed from it is equal to d, where d's strings hold no quotes or
// line breaks.
func (d *Descriptor) Append(b []byte) []byte {
	b = fmt.Appendf(b, "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=%v\nparentCID=%v\n", d.CID, d.ParentCID)
	if d.CreateType != "" {
		b = fmt.Appendf(b, "createType=\"%s\"\n", d.CreateType)
	}
	if d.ParentHint != "" {
		b = fmt.Appendf(b, "parentFileNameHint=\"%s\"\n", d.ParentHint)
	}
	b = append(b, "\n# Extent description\n"...)
	for _, e := range d.Extents {
		b = fmt.Appendf(b, "%s %d %s", e.Access, e.Sectors, e.Type)
		if e.File != "" {
			b = fmt.Appendf(b, " \"%s\"", e.File)
		}
		if e.File != "" && (e.Type == "FLAT" || e.Offset != 0) {
			b = fmt.Appendf(b, " %d", e.Offset)
		}
		b = append(b, '\n')
	}
	b = append(b, "\n# The Disk Data Base\n#DDB\n\n"...)
	keys := make([]string, 0, len(d.DDB))
	for k := range d.DDB {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		b = fmt.Appendf(b, "ddb.%s = \"%s\"\n", k, d.DDB[k])
	}
	return b
}
