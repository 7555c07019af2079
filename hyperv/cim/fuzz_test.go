package cim

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func FuzzAnswer(f *testing.F) {
	for _, n := range []string{"get-answer.xml", "enumerate-answer.xml", "pull-answer.xml", "invoke-answer.xml", "fault-wmi.xml", "fault-filter.xml"} {
		f.Add(vector(f, n))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := readAnswer(b, id)
		var fault *Fault
		if err != nil {
			require.True(t, errors.Is(err, ErrMalformed) || errors.As(err, &fault), "%v", err)
			require.NotEmpty(t, err.Error())
			return
		}
		if in, err := instanceIn(body); err == nil {
			require.True(t, isName(in.Class))
		} else {
			require.ErrorIs(t, err, ErrMalformed)
		}
		for _, n := range body.kids {
			e := &enumeration{opts: QueryOptions{MaxItems: 10}}
			if err := e.take(n); err == nil {
				require.LessOrEqual(t, len(e.items), 10)
			}
		}
	})
}

// What is read of an instance's text and written again is read as the same.
func FuzzInstance(f *testing.F) {
	f.Add(vector(f, "instance.xml"))
	f.Add(vector(f, "instance-wmi.xml"))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := ParseXML(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		text, err := in.XML()
		require.NoError(t, err)
		again, err := ParseXML([]byte(text))
		require.NoError(t, err)
		twice, err := again.XML()
		require.NoError(t, err)
		require.Equal(t, text, twice)
	})
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{`\\HV1\root\virtualization\v2:Msvm_X.A="a\"b\\c",B=1`, `Msvm_X.A="x"`, `Msvm_X=@`, `root\cimv2:A`, `A.B="c:d.e=\"f\""`, `A.`, `A.B="`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParsePath(s)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		again, err := ParsePath(r.Path("h"))
		require.NoError(t, err, "%q → %q", s, r.Path("h"))
		require.Equal(t, r, again)
	})
}

func FuzzDatetime(f *testing.F) {
	for _, s := range []string{"20250506070809.250000+060", "00000001020304.000005:000", "P1DT2H3M4.5S", "PT0S", "P0Y", "2025-05-06T07:08:09Z", "PT", "P1M", "P1DT", "PT1S2H"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := parseInterval(s); err == nil {
			require.GreaterOrEqual(t, d, time.Duration(0))
			require.LessOrEqual(t, d, maxInterval)
			for _, text := range []string{formatInterval(d), formatXSDuration(d)} {
				again, err := parseInterval(text)
				require.NoError(t, err, text)
				require.Equal(t, d.Truncate(time.Microsecond), again, text)
			}
		}
		if at, err := parseTime(s); err == nil && at.Year() > 0 && at.Year() < 10000 {
			_, offset := at.Zone()
			if again, err := parseTime(formatDateTime(at)); offset%60 == 0 {
				require.NoError(t, err)
				require.True(t, at.Truncate(time.Microsecond).Equal(again))
			}
		}
	})
}

func TestIntervals(t *testing.T) {
	for _, s := range []string{"PT", "P", "P1M", "P1DT", "PT1S2H", "P-1D", "PT1e3S", "P99999999999D", "1D", "PT1X"} {
		_, err := parseInterval(s)
		require.ErrorIs(t, err, ErrMalformed, s)
	}
	for s, want := range map[string]time.Duration{"P1DT2H3M4.5S": 26*time.Hour + 3*time.Minute + 4500*time.Millisecond, "PT0S": 0, "P0Y0M1D": 24 * time.Hour} {
		d, err := parseInterval(s)
		require.NoError(t, err, s)
		require.Equal(t, want, d, s)
	}
}
