package retention

import "fmt"

// Reason is one rule's word about one point. Which fields are set depends on the rule.
type Reason struct {
	Rule   Rule
	Keep   bool   // false: why this rule does not keep it
	Period Period // hourly to yearly
	Point  string // id of the point that was chosen in its place, or that the age is counted from
	Count  int    // the policy's number for last and periods; the grade for best
	Name   string // of the hold or the tag; for within the duration; for doubtful what is doubted

	whole bool // the choice within a period fell because of holes
}

// String is the reason in words, such as "newest of 2026-W47" or "held: audit".
func (r Reason) String() string {
	if r.Keep {
		return r.why()
	}
	return r.whyNot()
}

// MarshalText makes a reason its words in JSON.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (r Reason) why() string {
	switch r.Rule {
	case Newest:
		return "newest point"
	case Best:
		return "newest that is " + gradeWords[r.Count]
	case Hold:
		return "held: " + r.Name
	case Tag:
		return "tagged: " + r.Name
	case Last:
		return "last " + countText(r.Count)
	case Within:
		if r.Point == "" {
			return fmt.Sprintf("within %s: fewer than two points tell the time", r.Name)
		}
		return fmt.Sprintf("within %s of %s", r.Name, r.Point)
	case Doubtful:
		return "doubtful time: " + r.Name
	case Witness:
		return "shows that a doubtful point's time is wrong"
	}
	if r.whole {
		return fmt.Sprintf("newest whole of %s", r.Period)
	}
	return fmt.Sprintf("newest of %s", r.Period)
}

func (r Reason) whyNot() string {
	switch {
	case r.Rule == Last:
		return fmt.Sprintf("not among the last %s", countText(r.Count))
	case r.Rule == Within:
		return fmt.Sprintf("more than %s before %s", r.Name, r.Point)
	case r.Point == "":
		return fmt.Sprintf("%s is older than the %d newest %s with points", r.Period, r.Count, periodNouns[r.Rule])
	case r.whole:
		return fmt.Sprintf("%s has %s, which is whole", r.Period, r.Point)
	}
	return fmt.Sprintf("%s has %s, which is newer", r.Period, r.Point)
}

var periodNouns = map[Rule]string{
	Hourly: "hours", Daily: "days", Weekly: "weeks", Monthly: "months", Yearly: "years",
}
