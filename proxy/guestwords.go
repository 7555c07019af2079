package proxy

import (
	"cmp"
	"fmt"
	"strings"
)

func nameOS(os string) string { return cmp.Or(os, "an unknown system") }

func orNone(text string) string { return cmp.Or(text, "none that is known") }

func hostName(name string) string {
	if name == "" {
		return "the host"
	}
	return "host " + name
}

// explain says why the decision is as it is, and of each candidate why it was not taken.
func (d *GuestDecision) explain(c *GuestChoice, server string) {
	chosen := d.candidate(d.Try[0])
	switch {
	case !c.proxied():
		d.say("the guest runs %s, and proxies deploy to Windows guests only: %s does it", nameOS(c.VM.OS), server)
	case d.FailOver:
		d.say("no machine meets the requirements: the backup server %s does it", server)
	case len(c.Rules.Manual) > 0:
		d.say("%s is the first of those chosen by hand that meets the requirements", chosen.Name)
	default:
		d.say("%s has priority %d: %s%s", chosen.Name, chosen.Rank, chosen.RankText, d.busy(chosen))
	}
	if d.Waits {
		d.say("it runs as many tasks as it may (%s), so this one waits", load(chosen.Tasks, chosen.Limit))
	}
	if len(d.Try) > 1 {
		d.say("where it cannot reach the guest or fails: %s", strings.Join(d.Try[1:], ", then "))
	}
	for i := range d.Candidates {
		d.Candidates[i].Lost = d.lost(&d.Candidates[i], chosen, len(c.Rules.Manual) > 0)
	}
	d.warn(c, server)
}

func (d *GuestDecision) say(format string, args ...any) {
	d.Reasons = append(d.Reasons, fmt.Sprintf(format, args...))
}

// candidate is the one with a name, which is there.
func (d *GuestDecision) candidate(name string) *Candidate {
	for i := range d.Candidates {
		if d.Candidates[i].Name == name {
			return &d.Candidates[i]
		}
	}
	return nil
}

// busy tells the load where it decided.
func (d *GuestDecision) busy(chosen *Candidate) string {
	equals := 0
	for i := range d.Candidates {
		if x := &d.Candidates[i]; x.Fit() && x.Rank == chosen.Rank {
			equals++
		}
	}
	if equals < 2 {
		return ""
	}
	return fmt.Sprintf("; of %d such machines it is the least busy (%s)", equals, load(chosen.Tasks, chosen.Limit))
}

// lost is why a candidate was not taken.
func (d *GuestDecision) lost(x, chosen *Candidate, manual bool) string {
	switch {
	case x.Chosen:
		return ""
	case !x.Fit():
		return "it does not meet the requirements"
	case manual:
		return fmt.Sprintf("it stands behind %s in the list", chosen.Name)
	case x.Rank != chosen.Rank:
		return fmt.Sprintf("priority %d comes after %d", x.Rank, chosen.Rank)
	case x.full() && !chosen.full():
		return fmt.Sprintf("it is full (%s)", load(x.Tasks, x.Limit))
	case x.Tasks != chosen.Tasks:
		return fmt.Sprintf("it is busier (%s)", load(x.Tasks, x.Limit))
	}
	return fmt.Sprintf("it is as busy as %s, whose name comes first", chosen.Name)
}

// warn tells what is allowed and should be known.
func (d *GuestDecision) warn(c *GuestChoice, server string) {
	if len(c.Rules.Manual) > 0 && !c.proxied() {
		d.Warnings = append(d.Warnings, fmt.Sprintf("the machines chosen by hand are not asked: the guest runs %s", nameOS(c.VM.OS)))
	}
	if d.FailOver {
		lacks := d.candidate(server).Problems
		d.Warnings = append(d.Warnings, fmt.Sprintf("the backup server does not meet the requirements either: %s", strings.Join(lacks, "; ")))
	}
	for _, w := range c.Workers {
		if w.Name == d.Try[0] && c.proxied() && strings.EqualFold(w.OS, "linux") && !d.FailOver {
			d.Warnings = append(d.Warnings, fmt.Sprintf("%s runs Linux: it reaches Windows guests by our own SMB; set windowsOnly for the stricter rule", w.Name))
		}
	}
}

// String is the decision, its reasons, and every candidate on a line.
func (d *GuestDecision) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", d.VM, strings.Join(d.Try, ", then "))
	for _, why := range d.Reasons {
		fmt.Fprintf(&b, "  %s\n", why)
	}
	for i := range d.Candidates {
		fmt.Fprintf(&b, "    %s\n", d.Candidates[i])
	}
	for _, w := range d.Warnings {
		fmt.Fprintf(&b, "  warning: %s\n", w)
	}
	return b.String()
}

// String is the candidate with its rank, its load, and why it lost.
func (c Candidate) String() string {
	rank := "-"
	if c.Fit() {
		rank = fmt.Sprint(c.Rank)
	}
	mark := " "
	if c.Chosen {
		mark = "*"
	}
	s := fmt.Sprintf("%s %s %s, %s", mark, rank, c.Machine, load(c.Tasks, c.Limit))
	why := append([]string{}, c.Problems...)
	if c.Lost != "" && c.Fit() {
		why = append(why, c.Lost)
	}
	if len(why) > 0 {
		s += ": " + strings.Join(why, "; ")
	}
	return s
}
