package job

import "time"

// KindBootCheck is a point that was started to see whether it does.
const KindBootCheck Kind = "bootcheck"

// BootResult is what a boot check found. Sizes are bytes.
type BootResult struct {
	Session  string      `json:"session"`
	Point    string      `json:"point"`
	VM       string      `json:"vm"`
	Started  time.Time   `json:"started"`
	Passed   bool        `json:"passed"`
	Checks   []BootCheck `json:"checks"`
	Mapping  []string    `json:"mapping"`          // what was recorded of the machine, and what it was started with
	Screen   []byte      `json:"screen,omitempty"` // a PNG, as it was at the end
	Serial   string      `json:"serial,omitempty"` // the last of what it printed at its serial port
	Written  int64       `json:"written"`          // by the guest, into an overlay that is gone; the point is as it was
	Warnings []string    `json:"warnings"`
	Seconds  float64     `json:"seconds"`
}

// BootCheck is one thing that was waited for.
type BootCheck struct {
	Name    string  `json:"name"` // "started", "agent", "port 22", "serial", "screen", "probe", "in guest"
	Passed  bool    `json:"passed"`
	Detail  string  `json:"detail,omitempty"` // what was seen, or what was not and why
	Seconds float64 `json:"seconds"`          // from the start of the machine
}
