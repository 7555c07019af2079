package bandwidth

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestParseRules(t *testing.T) {
	for text, want := range map[string]Rules{
		"":                        {},
		" ":                       {},
		"off":                     {},
		"20MB/s":                  {Limits: Limits{Total: 20_000_000}},
		"20 MB/s":                 {Limits: Limits{Total: 20_000_000}},
		"total 1.5MiB/s":          {Limits: Limits{Total: 3 << 19}},
		"100Mbit/s":               {Limits: Limits{Total: 12_500_000}},
		"1Gbit/s session 64kB/s":  {Limits: Limits{Total: 125_000_000, PerSession: 64_000}},
		"connection 512kbit/s":    {Limits: Limits{PerConnection: 64_000}},
		"mon 2MB/s":               {Windows: []Window{{On(time.Monday), 0, 0, Limits{Total: 2_000_000}}}},
		"8:05-24:00 off":          {Windows: []Window{{0, 485, 1440, Limits{}}}},
		"daily 00:00-24:00 1kB/s": {Windows: []Window{{everyDay, 0, 1440, Limits{Total: 1_000}}}},
		"1MB/s;":                  {Limits: Limits{Total: 1_000_000}},
		"# none":                  {}, ";\n;": {},
		"# the line\n20MB/s # at night\r\n\nmon-fri 08:00-18:00 2MB/s\n": {Limits: Limits{Total: 20_000_000},
			Windows: []Window{{0b0111110, 480, 1080, Limits{Total: 2_000_000}}}},
		"20MB/s; mon-fri 08:00-18:00 2MB/s": {Limits: Limits{Total: 20_000_000},
			Windows: []Window{{0b0111110, 480, 1080, Limits{Total: 2_000_000}}}},
		"Fri-Mon,wed 22:00-06:00 session 1 GiB/s;off": {
			Windows: []Window{{On(time.Friday, time.Saturday, time.Sunday, time.Monday, time.Wednesday), 1320, 360, Limits{PerSession: 1 << 30}}}},
	} {
		got, err := ParseRules(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
}

// Each error names the part and the word that is wrong.
func TestParseRulesSaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]RuleError{
		"20":                              {1, "", "20", "unit"},
		"20MB":                            {1, "", "20MB", "unit"},
		"20mb/s":                          {1, "", "20mb/s", "unit"},
		"1.2345MB/s":                      {1, "", "1.2345MB/s", "decimals"},
		"1.MB/s":                          {1, "", "1.MB/s", "decimals"},
		".5MB/s":                          {1, "", ".5MB/s", "days are written"},
		"1.2.3MB/s":                       {1, "", "1.2.3MB/s", "decimals"},
		"0MB/s":                           {1, "", "0MB/s", "less than 1 kB/s"},
		"999B/s":                          {1, "", "999B/s", "less than 1 kB/s"},
		"99999999999999999B/s":            {1, "", "99999999999999999B/s", "decimals"},
		"999999999999999GiB/s":            {1, "", "999999999999999GiB/s", "faster"},
		"4000000000000000B/s":             {1, "", "4000000000000000B/s", "faster"},
		"1MB/s\n# night\nfast":            {2, "", "fast", `"off"`},
		"mon 8-18 2MB/s":                  {1, "", "8-18", "08:00-18:00"},
		"8-18 2MB/s":                      {1, "", "8-18", "08:00-18:00"},
		"unlimited":                       {1, "", "unlimited", `"off"`},
		"1MB/s; 2MB/s":                    {2, "", "", "second part"},
		"1MB/s; mon":                      {2, "", "", "no limit"},
		"1MB/s; mon-fry 2MB/s":            {2, "", "mon-fry", "days"},
		"mon,,tue 2MB/s":                  {1, "", "mon,,tue", "days"},
		"off; mon 08:00 2MB/s":            {2, "", "08:00", "span"},
		"off; mon 08:00-18:60 2MB/s":      {2, "", "08:00-18:60", `"18:60"`},
		"off; mon 24:00-18:00 2MB/s":      {2, "", "24:00-18:00", `"24:00"`},
		"off; mon 08:00-24:01 2MB/s":      {2, "", "08:00-24:01", `"24:01"`},
		"off; mon 08:00-08:00 2MB/s":      {2, "", "08:00-08:00", "00:00-24:00"},
		"off; mon +8:00-09:00 2MB/s":      {2, "", "+8:00-09:00", `"+8:00"`},
		"off 2MB/s":                       {1, "", "2MB/s", "after"},
		"1MB/s 2MB/s":                     {1, "", "2MB/s", "total, session or connection"},
		"1MB/s total 2MB/s":               {1, "", "total", "twice"},
		"1MB/s lane 2MB/s":                {1, "", "lane", "total, session or connection"},
		"session":                         {1, "", "", "missing"},
		"session session":                 {1, "", "session", "unit"},
		strings.Repeat("mon 1kB/s;", 65):  {65, "", "", "64 time windows"},
		strings.Repeat("mon 1kB/s;", 500): {1, "", "", "at most 4096"},
	} {
		_, err := ParseRules(text)
		var e *RuleError
		require.ErrorAs(t, err, &e, text)
		assert.Equal(t, want.Part, e.Part, "%s: %v", text, err)
		assert.Equal(t, want.Word, e.Word, "%s: %v", text, err)
		assert.Contains(t, e.Reason, want.Reason, text)
		assert.Contains(t, err.Error(), e.Text)
	}
}

// A file that was just emptied lifts no limit.
func TestParseFile(t *testing.T) {
	for _, text := range []string{"", " \n\t\r\n", "# 20MB/s\n", ";"} {
		_, err := ParseFile(text)
		var e *RuleError
		require.ErrorAs(t, err, &e, "%q", text)
		assert.Contains(t, e.Reason, `"off"`)
	}
	rules, err := ParseFile("off # for now\n")
	require.NoError(t, err)
	require.Equal(t, Rules{}, rules)
}

func TestRulesString(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "off",
		"20000000B/s":                      "20MB/s",
		"1536KiB/s":                        "1536KiB/s",
		"100Mbit/s":                        "12500kB/s",
		"1GiB/s session 1GB/s":             "1GiB/s session 1GB/s",
		"mon 2MB/s":                        "off; mon 00:00-24:00 2MB/s",
		"1MB/s; sun,mon,sat 8:00-9:00 off": "1MB/s; mon,sat-sun 08:00-09:00 off",
		"sat-thu 8:00-9:00 off":            "off; mon-thu,sat-sun 08:00-09:00 off",
		"08:00-09:00 off":                  "off; daily 08:00-09:00 off",
	} {
		rules, err := ParseRules(text)
		require.NoError(t, err, text)
		require.Equal(t, want, rules.String())
	}
}

func TestRulesGoThroughJSON(t *testing.T) {
	in := struct{ Limit Rules }{}
	require.NoError(t, json.Unmarshal([]byte(`{"Limit":"5MB/s; sun off"}`), &in))
	require.EqualValues(t, 5_000_000, in.Limit.Total)
	out, err := json.Marshal(in)
	require.NoError(t, err)
	require.JSONEq(t, `{"Limit":"5MB/s; sun 00:00-24:00 off"}`, string(out))
	require.Error(t, json.Unmarshal([]byte(`{"Limit":"5MB"}`), &in))
}

// What is written is read as the same rules at every moment of a year.
func TestStringAndParseAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(minRate, maxRate))
		limits := func() Limits {
			return Limits{rate.Draw(t, "total"), rate.Draw(t, "session"), rate.Draw(t, "connection")}
		}
		rules := Rules{Limits: limits(), Location: time.UTC}
		for range rapid.IntRange(0, 5).Draw(t, "windows") {
			rules.Windows = append(rules.Windows, Window{
				Days: Days(rapid.IntRange(0, 127).Draw(t, "days")), From: Minute(rapid.IntRange(0, 1439).Draw(t, "from")),
				To: Minute(rapid.IntRange(0, 1440).Draw(t, "to")), Limits: limits(),
			})
		}
		again, err := ParseRules(rules.String())
		require.NoError(t, err, rules.String())
		again.Location = time.UTC
		require.Equal(t, rules.String(), again.String())
		at := time.Date(2026, 1, 1, 0, rapid.IntRange(0, 366*1440).Draw(t, "minute"), 0, 0, time.UTC)
		require.Equal(t, rules.At(at), again.At(at), rules.String())
	})
}

// at is what the rules say, as the total.
func at(t *testing.T, rules Rules, utc string) int64 {
	moment, err := time.Parse("2006-01-02 15:04", utc)
	require.NoError(t, err)
	return rules.At(moment).Total
}

func TestWindowOverMidnightBelongsToItsFirstDay(t *testing.T) {
	rules := Rules{Location: time.UTC, Windows: []Window{{Days: On(time.Friday), From: 22 * 60, To: 6 * 60, Limits: Limits{Total: 7}}}}
	for utc, want := range map[string]int64{ // 2026-11-20 is a Friday
		"2026-11-20 05:00": 0, "2026-11-20 21:59": 0, "2026-11-20 22:00": 7, "2026-11-20 23:59": 7,
		"2026-11-21 00:00": 7, "2026-11-21 05:59": 7, "2026-11-21 06:00": 0, "2026-11-21 22:30": 0,
	} {
		require.Equal(t, want, at(t, rules, utc), utc)
	}
}

func TestFirstWindowThatContainsTheMomentCounts(t *testing.T) {
	rules, err := ParseRules("9kB/s; mon-fri 12:00-13:00 off; mon-fri 08:00-18:00 2kB/s; sat-sun 1kB/s")
	require.NoError(t, err)
	rules.Location = time.UTC
	for utc, want := range map[string]int64{
		"2026-11-20 07:59": 9_000, "2026-11-20 08:00": 2_000, "2026-11-20 12:30": 0, "2026-11-20 13:00": 2_000,
		"2026-11-20 18:00": 9_000, "2026-11-21 00:00": 1_000, "2026-11-22 23:59": 1_000, "2026-11-23 00:00": 9_000,
	} {
		require.Equal(t, want, at(t, rules, utc), utc)
	}
}

func berlin(t *testing.T) *time.Location {
	loc, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skipf("no time zone data: %v", err)
	}
	return loc
}

// In Berlin, 25 October 2026, clocks go from 03:00 CEST back to 02:00 CET.
func TestWindowCountsInBothTurnsOfTheHourThatExistsTwice(t *testing.T) {
	rules := Rules{Location: berlin(t), Windows: []Window{{From: 2 * 60, To: 3 * 60, Limits: Limits{Total: 7}}}}
	for utc, want := range map[string]int64{
		"2026-10-24 23:59": 0, "2026-10-25 00:00": 7, "2026-10-25 00:59": 7, // 02:00 to 02:59 for the first time
		"2026-10-25 01:00": 7, "2026-10-25 01:59": 7, "2026-10-25 02:00": 0, // and again
	} {
		require.Equal(t, want, at(t, rules, utc), utc)
	}
}

// On 29 March 2026 they go from 02:00 CET on to 03:00 CEST.
func TestWindowInTheHourThatNeverExists(t *testing.T) {
	inside := Rules{Location: berlin(t), Windows: []Window{{From: 2 * 60, To: 3 * 60, Limits: Limits{Total: 7}}}}
	across := Rules{Location: berlin(t), Windows: []Window{{From: 2*60 + 30, To: 4 * 60, Limits: Limits{Total: 7}}}}
	for utc, want := range map[string][2]int64{
		"2026-03-29 00:59": {0, 0}, "2026-03-29 01:00": {0, 7}, "2026-03-29 01:59": {0, 7}, "2026-03-29 02:00": {0, 0},
		"2026-03-30 00:00": {7, 0}, "2026-03-30 00:30": {7, 7},
	} {
		require.Equal(t, want, [2]int64{at(t, inside, utc), at(t, across, utc)}, utc)
	}
}

func FuzzParseRules(f *testing.F) {
	for _, s := range []string{"", "off", "20MB/s; mon-fri 08:00-18:00 2MB/s", "1.5 GiB/s session 3kbit/s connection 8 kB/s;sat 22:00-6:00 off",
		"daily 0:00-24:00 1kB/s", "mon,tue-sun 1B/s", ";;", "total", "1e9MB/s", "mon-fri 08:00-18:00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := ParseRules(text)
		if err != nil {
			var e *RuleError
			require.ErrorAs(t, err, &e)
			return
		}
		for _, l := range append([]Limits{rules.Limits}, windowLimits(rules)...) {
			for _, rate := range []int64{l.Total, l.PerSession, l.PerConnection} {
				require.True(t, rate == 0 || rate >= minRate && rate <= maxRate, rate)
			}
		}
		again, err := ParseRules(rules.String())
		require.NoError(t, err, rules.String())
		require.Equal(t, rules.String(), again.String())
	})
}

func windowLimits(r Rules) (list []Limits) {
	for _, w := range r.Windows {
		list = append(list, w.Limits)
	}
	return list
}
