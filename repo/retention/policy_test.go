package retention

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]Policy{
		"last=7,daily=14,weekly=8,monthly=12,yearly=3": {Last: 7, Daily: 14, Weekly: 8, Monthly: 12, Yearly: 3},
		" daily = 7 , hourly=24\n":                     {Daily: 7, Hourly: 24},
		"last=0,daily=1":                               {Daily: 1},
		"daily=007":                                    {Daily: 7},
		"yearly=all":                                   {Yearly: All},
		"yearly=2147483647":                            {Yearly: All},
		"within=36h":                                   {Within: 36 * time.Hour},
		"within=30d":                                   {Within: 30 * 24 * time.Hour},
		"within=2w":                                    {Within: 14 * 24 * time.Hour},
		"within=1y":                                    {Within: 366 * 24 * time.Hour},
		"within=100y":                                  {Within: MaxWithin},
		"within=0,last=1":                              {Last: 1},
		"last=1,tag=a,tag=b=c d":                       {Last: 1, Tags: []string{"a", "b=c d"}},
	} {
		p, err := Parse(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, p, text)
		again, err := Parse(p.String())
		require.NoError(t, err, p.String())
		assert.Equal(t, p, again, text)
	}
	assert.Equal(t, "last=1,within=15d,tag=a", Policy{Tags: []string{"a"}, Within: 15 * 24 * time.Hour, Last: 1}.String())
	assert.Equal(t, "within=25h", Policy{Within: 25 * time.Hour}.String())
}

// H08, and the bound of every input.
func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"", " ", ",", "last", "last=", "last=,daily=1", "=1", "last=1,", "7",
		"last=-1", "last=+1", "last=1.5", "last=1e3", "last=1_0", "last=0x10", "last=٣", "last=2147483648", "last=99999999999999999999",
		"last=ALL", "last=1 2", "last=0", "last=0,daily=0,within=0", "tag=audit", "tag=audit,last=0",
		"daily=7,daily=14", "daily=7,Daily=14", "keep-daily=7", "days=7", "daily=7;weekly=8", "daily:7",
		"within=30", "within=m", "within=3m", "within=-3d", "within=1.5d", "within=1d12h", "within=101y", "within=9999999h", "within=0d",
		"last=1,tag=", "last=1,tag=a,tag=a", "last=1,tag=a\x00b", "last=1,tag=\xff", "last=1,tag=" + strings.Repeat("x", 257),
		strings.Repeat("last=1,", 10_000),
	} {
		p, err := Parse(text)
		var bad *PolicyError
		require.ErrorAs(t, err, &bad, "%.40q", text)
		require.Less(t, len(err.Error()), 400)
		require.True(t, p.IsZero(), text)
	}
	_, err := Parse("last=0")
	require.ErrorIs(t, err, ErrKeepsNothing)
}

func TestSetTakesFlags(t *testing.T) {
	var p Policy
	values := map[Rule]string{Last: "1", Hourly: "2", Daily: "3", Weekly: "4", Monthly: "5", Yearly: "all", Within: "6d", Tag: "x"}
	for _, f := range Fields() {
		require.Equal(t, "keep-"+string(f.Rule), f.Flag)
		require.NotEmpty(t, f.Help)
		require.NoError(t, p.Set(f.Flag, values[f.Rule]))
		delete(values, f.Rule)
	}
	require.Empty(t, values)
	require.Equal(t, "last=1,hourly=2,daily=3,weekly=4,monthly=5,yearly=all,within=6d,tag=x", p.String())

	before := p.String()
	for _, bad := range [][2]string{{"keep-daily", "-1"}, {"keep-daily", ""}, {"keep-within", "soon"}, {"keep-tag", "x"}, {"keep-", "1"}, {"keep", "1"}} {
		var e *PolicyError
		require.ErrorAs(t, p.Set(bad[0], bad[1]), &e)
		require.Equal(t, bad[0], e.Field)
		require.Equal(t, before, p.String(), "a value that is refused changes nothing")
	}
	copied := p
	require.NoError(t, copied.Set("tag", "y"))
	require.NoError(t, p.Set("tag", "z"))
	require.Equal(t, []string{"x", "y"}, copied.Tags, "copies share no tags")
}

func TestPolicyAsJSON(t *testing.T) {
	p := Policy{Last: 7, Daily: 14, Yearly: All, Within: 36 * time.Hour, Tags: []string{"audit", `<"x">`}}
	text, err := json.Marshal(p)
	require.NoError(t, err)
	require.JSONEq(t, `{"last":7,"daily":14,"yearly":"all","within":"36h","tags":["audit","<\"x\">"]}`, string(text))
	var again Policy
	require.NoError(t, json.Unmarshal(text, &again))
	require.Equal(t, p, again)

	_, err = json.Marshal(Policy{})
	require.ErrorIs(t, err, ErrKeepsNothing)
	text, err = json.Marshal(struct {
		Keep Policy `json:"keep,omitzero"`
	}{})
	require.NoError(t, err)
	require.Equal(t, "{}", string(text))
}

func TestPolicyFromJSONRefuses(t *testing.T) {
	for _, text := range []string{
		`{}`, `{"last":0}`, `{"tags":["a"]}`, `null`, `[]`, `7`, `"last=7"`,
		`{"last":-1}`, `{"last":1.0}`, `{"last":1e2}`, `{"last":"7"}`, `{"last":null}`, `{"last":true}`, `{"last":[7]}`, `{"last":{}}`,
		`{"last":1,"last":2}`, `{"Last":1}`, `{"last":1,"days":2}`, `{"last":1,"tag":"a"}`, `{"keep-last":1}`, `{"last":2147483648}`,
		`{"within":30}`, `{"within":"30"}`, `{"within":"all"}`, `{"within":null}`,
		`{"last":1,"tags":"a"}`, `{"last":1,"tags":[1]}`, `{"last":1,"tags":[null]}`, `{"last":1,"tags":null}`,
		`{"last":1,"tags":["a"],"tags":["b"]}`, `{"last":1,"tags":["a","a"]}`, `{"last":1,"tags":[["a"]]}`,
	} {
		p := Policy{Last: 99}
		err := json.Unmarshal([]byte(text), &p)
		var bad *PolicyError
		require.ErrorAs(t, err, &bad, text)
		require.Equal(t, Policy{Last: 99}, p, text)
	}
	// Called by hand, with what encoding/json would not hand on.
	for _, text := range []string{``, `{`, `{"last"`, `{"last":`, `{"last":1`, `{"last":1}}`, `{"last":1} 7`, "{\"last\":1,}", strings.Repeat(" ", 40_000)} {
		var p Policy
		var bad *PolicyError
		require.ErrorAs(t, p.UnmarshalJSON([]byte(text)), &bad, text)
	}
}

// What is read is written and read again as the same, and whatever cannot be read is a PolicyError and no panic.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"last=7,daily=14,weekly=8,monthly=12,yearly=3", "within=30d,tag=a,tag=b=c", "yearly=all", "last=-1", "last=0", "="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		roundTrip(t, p, err)
	})
}

func FuzzPolicyJSON(f *testing.F) {
	for _, seed := range []string{`{"last":7,"within":"30d","tags":["a"],"yearly":"all"}`, `{"last":1,"last":2}`, `{"tags":[`, `{"\u006cast":1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var p Policy
		err := p.UnmarshalJSON(text)
		roundTrip(t, p, err)
	})
}

func roundTrip(t *testing.T, p Policy, err error) {
	if err != nil {
		var bad *PolicyError
		require.True(t, errors.As(err, &bad))
		require.True(t, p.IsZero())
		return
	}
	require.NoError(t, p.Validate())
	again, err := Parse(p.String())
	require.NoError(t, err)
	require.Equal(t, p.String(), again.String())
	doc, err := json.Marshal(p)
	require.NoError(t, err)
	var decoded Policy
	require.NoError(t, json.Unmarshal(doc, &decoded))
	require.Equal(t, p.String(), decoded.String())
}

// Each bound is the last that is taken.
func TestBoundsOfAPolicy(t *testing.T) {
	policy := "last=1"
	for i := range maxTags {
		policy += ",tag=" + strings.Repeat("t", maxTagBytes-2) + string(rune('a'+i/26)) + string(rune('a'+i%26))
	}
	p, err := Parse(policy)
	require.NoError(t, err)
	require.Len(t, p.Tags, maxTags)
	_, err = Parse(policy + ",tag=more")
	require.ErrorContains(t, err, "are more than 64 tags")
	_, err = Parse("last=1,tag=" + strings.Repeat("t", maxTagBytes+1))
	require.Error(t, err)
	_, err = Parse("last=1" + strings.Repeat(" ", maxPolicyBytes-len("last=1")))
	require.NoError(t, err)
	_, err = Parse("last=1" + strings.Repeat(" ", maxPolicyBytes-len("last=1")+1))
	require.ErrorContains(t, err, "32 KiB")
}
