package job

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Where a VM is reads as a sentence, whatever of it is known.
func TestWhere(t *testing.T) {
	for want, w := range map[string]Where{
		"":                            {},
		"web1":                        {Name: "web1"},
		"web1 on HV1":                 {Name: "web1", Host: "HV1"},
		`web1 on HV1, in C:\VMs\web1`: {Name: "web1", Host: "HV1", Folder: `C:\VMs\web1`},
		`in C:\VMs\web1`:              {Folder: `C:\VMs\web1`},
		"on HV1":                      {Host: "HV1"},
	} {
		require.Equal(t, want, w.String())
	}
}
