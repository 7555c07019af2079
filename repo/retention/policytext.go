package retention

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

const maxPolicyBytes = 32 << 10

// Parse reads a policy such as "last=7,daily=14,weekly=8,monthly=12,yearly=3,within=2d,tag=audit". Numbers are plain
// digits or "all"; durations are digits and h, d, w or y (24 hours, 7 days, 366 days). Only tag may stand more than once.
// Spaces around a comma or an equals sign are passed over. Whatever else is there is a [*PolicyError], and so is a policy that
// [Policy.Validate] refuses.
func Parse(text string) (Policy, error) {
	if len(text) > maxPolicyBytes {
		return Policy{}, badPolicy("", text, "is longer than 32 KiB")
	}
	var p Policy
	if strings.TrimSpace(text) == "" {
		return Policy{}, p.Validate()
	}
	seen := make(map[string]bool)
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return Policy{}, badPolicy("", part, "is not of the form rule=number")
		}
		if err := p.setOnce(seen, strings.TrimSpace(name), strings.TrimSpace(value)); err != nil {
			return Policy{}, err
		}
	}
	if err := p.Validate(); err != nil {
		return Policy{}, err
	}
	return p, nil
}

// String is what [Parse] reads, rules in a fixed order. Of a policy that is not valid it is for people only.
func (p Policy) String() string {
	var parts []string
	for _, c := range counts {
		if n := *c.of(&p); n != 0 {
			parts = append(parts, string(c.rule)+"="+countText(n))
		}
	}
	if p.Within != 0 {
		parts = append(parts, string(Within)+"="+durationText(p.Within))
	}
	for _, tag := range p.Tags {
		parts = append(parts, string(Tag)+"="+tag)
	}
	return strings.Join(parts, ",")
}

// Field is one rule of a policy as a program's flag or a form has it.
type Field struct {
	Rule Rule
	Flag string // "keep-daily"
	Help string
	Many bool // may be given more than once
}

// Fields are the rules that [Policy.Set] takes, in their order.
func Fields() []Field {
	var fields []Field
	for _, c := range counts {
		fields = append(fields, Field{Rule: c.rule, Flag: flagPrefix + string(c.rule), Help: c.help})
	}
	return append(fields,
		Field{Rule: Within, Flag: flagPrefix + string(Within), Help: "keep what is at most this much older than the last point but one: 36h, 30d, 8w, 1y"},
		Field{Rule: Tag, Flag: flagPrefix + string(Tag), Help: "keep points with this tag", Many: true})
}

const flagPrefix = "keep-"

// Set takes one rule by its name or its flag ("daily" or "keep-daily"), the value as in [Parse]. A tag is added, anything
// else replaced. On error the policy stays as it was. Whoever has set all rules calls Validate, or lets [Decide] do it.
func (p *Policy) Set(name, value string) error {
	rule := Rule(strings.TrimPrefix(name, flagPrefix))
	switch rule {
	case Within:
		d, err := parseDuration(name, value)
		if err == nil {
			p.Within = d
		}
		return err
	case Tag:
		tags := append(p.Tags[:len(p.Tags):len(p.Tags)], value)
		err := checkTags(name, tags)
		if err == nil {
			p.Tags = tags
		}
		return err
	}
	for _, c := range counts {
		if c.rule == rule {
			n, err := parseCount(name, value)
			if err == nil {
				*c.of(p) = n
			}
			return err
		}
	}
	return badPolicy(name, value, "no such rule")
}

// setOnce is Set for input in which a rule said twice is a mistake: nobody can tell which one was meant.
func (p *Policy) setOnce(seen map[string]bool, name, value string) error {
	if strings.HasPrefix(name, flagPrefix) {
		return badPolicy(name, value, "no such rule")
	}
	if seen[name] && name != string(Tag) {
		return badPolicy(name, value, "stands there twice")
	}
	seen[name] = true
	return p.Set(name, value)
}

func parseCount(name, value string) (int, error) {
	if value == "all" {
		return All, nil
	}
	n, ok := digits(value, 10)
	if !ok || n > All {
		return 0, badPolicy(name, value, `is not a number from 0 to 2147483647, nor "all"`)
	}
	return int(n), nil
}

func countText(n int) string {
	if n == All {
		return "all"
	}
	return strconv.Itoa(n)
}

func parseDuration(name, value string) (time.Duration, error) {
	bad := badPolicy(name, value, "is not a duration such as 36h, 30d, 8w or 1y, at most a hundred years")
	if value == "0" {
		return 0, nil
	}
	units := map[byte]time.Duration{'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour, 'y': 366 * 24 * time.Hour}
	if value == "" {
		return 0, bad
	}
	unit, known := units[value[len(value)-1]]
	n, ok := digits(value[:len(value)-1], 7)
	if !known || !ok || n > int64(MaxWithin/unit) {
		return 0, bad
	}
	return time.Duration(n) * unit, nil
}

func durationText(d time.Duration) string {
	switch {
	case d%(24*time.Hour) == 0:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return d.String()
}

// digits reads decimal digits and nothing else: no sign, no space, no underscore, no exponent.
func digits(s string, most int) (int64, bool) {
	if s == "" || len(s) > most || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// MarshalJSON writes {"last":7,"daily":14,"within":"30d","tags":["audit"]}; [All] is the string "all". A policy that is
// not valid is an error: it could not be read again. Where there may be none, omitzero leaves it out.
func (p Policy) MarshalJSON() ([]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	var parts []string
	for _, c := range counts {
		switch n := *c.of(&p); n {
		case 0:
		case All:
			parts = append(parts, fmt.Sprintf("%q:%q", c.rule, "all"))
		default:
			parts = append(parts, fmt.Sprintf("%q:%d", c.rule, n))
		}
	}
	if p.Within != 0 {
		parts = append(parts, fmt.Sprintf("%q:%q", Within, durationText(p.Within)))
	}
	if len(p.Tags) != 0 {
		tags, err := json.Marshal(p.Tags)
		if err != nil {
			return nil, err
		}
		parts = append(parts, `"tags":`+string(tags))
	}
	return []byte("{" + strings.Join(parts, ",") + "}"), nil
}

// UnmarshalJSON reads what MarshalJSON writes. Fields that it does not know, fields that stand there twice and numbers
// that are no plain digits are a [*PolicyError], like whatever Parse refuses; the policy is then as it was.
func (p *Policy) UnmarshalJSON(data []byte) error {
	if len(data) > maxPolicyBytes {
		return badPolicy("", string(data), "is longer than 32 KiB")
	}
	read, err := decodePolicy(data)
	if err != nil {
		return err
	}
	if err := read.Validate(); err != nil {
		return err
	}
	*p = read
	return nil
}

// decodePolicy goes token by token: encoding/json would take {"Daily":1,"daily":2} for one field and keep the last.
func decodePolicy(data []byte) (Policy, error) {
	var p Policy
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := expect(d, json.Delim('{')); err != nil {
		return p, err
	}
	seen := make(map[string]bool)
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return p, notJSON(err)
		}
		if err := p.decodeField(d, seen, name.(string)); err != nil {
			return p, err
		}
	}
	if err := expect(d, json.Delim('}')); err != nil {
		return p, err
	}
	if _, err := d.Token(); err != io.EOF {
		return p, badPolicy("", string(data), "has something after its end")
	}
	return p, nil
}

func (p *Policy) decodeField(d *json.Decoder, seen map[string]bool, name string) error {
	if name == string(Tag) {
		return badPolicy(name, "", `no such rule: in JSON it is "tags"`)
	}
	var raw json.RawMessage
	if err := d.Decode(&raw); err != nil {
		return notJSON(err)
	}
	if name == "tags" {
		return p.decodeTags(seen, raw)
	}
	if text, isString := unquote(raw); isString {
		if name != string(Within) && text != "all" {
			return badPolicy(name, text, "is a string and not a number")
		}
		return p.setOnce(seen, name, text)
	}
	if name == string(Within) {
		return badPolicy(name, string(raw), "is not a string")
	}
	return p.setOnce(seen, name, string(raw))
}

func (p *Policy) decodeTags(seen map[string]bool, raw json.RawMessage) error {
	if seen["tags"] {
		return badPolicy("tags", string(raw), "stands there twice")
	}
	seen["tags"] = true
	var tags []string
	if len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &tags) != nil {
		return badPolicy("tags", string(raw), "is not a list of strings")
	}
	if err := checkTags("tags", tags); err != nil {
		return err
	}
	p.Tags = tags
	return nil
}

func unquote(raw json.RawMessage) (string, bool) {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

func expect(d *json.Decoder, want json.Delim) error {
	token, err := d.Token()
	if err != nil {
		return notJSON(err)
	}
	if token != want {
		return badPolicy("", fmt.Sprint(token), "is not a JSON object with the rules as fields")
	}
	return nil
}

func notJSON(err error) error {
	return &PolicyError{Reason: "is not JSON: " + err.Error(), Err: err}
}
