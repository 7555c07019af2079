package hypervtest

import (
	"fmt"
	"io/fs"
	"strings"
)

// generation is what a host of a Windows has and has not.
type generation struct {
	name    string
	order   int
	caption string
	version string
	build   string
	config  string // version that new VMs get
}

var generations = []generation{
	{"2008r2", 0, "Microsoft Windows Server 2008 R2 Datacenter", "6.1.7601", "7601", "2.0"},
	{"2012", 1, "Microsoft Windows Server 2012 Datacenter", "6.2.9200", "9200", "4.0"},
	{"2012r2", 2, "Microsoft Windows Server 2012 R2 Datacenter", "6.3.9600", "9600", "5.0"},
	{"2016", 3, "Microsoft Windows Server 2016 Datacenter", "10.0.14393", "14393", "8.0"},
	{"2019", 4, "Microsoft Windows Server 2019 Datacenter", "10.0.17763", "17763", "9.0"},
	{"2022", 5, "Microsoft Windows Server 2022 Datacenter", "10.0.20348", "20348", "10.0"},
	{"2025", 6, "Microsoft Windows Server 2025 Datacenter", "10.0.26100", "26100", "12.0"},
}

func generationOf(name string) (generation, error) {
	if name == "" {
		g, err := generationOf("2022")
		g.config = "9.0" // a VM that came from an older host
		return g, err
	}
	for _, g := range generations {
		if strings.EqualFold(g.name, name) {
			return g, nil
		}
	}
	return generation{}, fmt.Errorf("no generation %q of Hyper-V: %w", name, fs.ErrInvalid)
}

// since says whether the host is of that generation or a later one.
func (g generation) since(name string) bool {
	other, err := generationOf(name)
	return err == nil && g.order >= other.order
}

// hidden namespaces are not there: root\virtualization\v2 came with 2012, and root\virtualization went with 2012 R2.
func (g generation) hidden(namespace string) bool {
	switch strings.ToLower(namespace) {
	case V2:
		return !g.since("2012")
	case "root/virtualization":
		return g.since("2012r2")
	}
	return false
}

// tracks says whether changes of a VM of some configuration are tracked: from 2016 and 8.0 on.
func (g generation) tracks(config string) bool {
	var major int
	_, err := fmt.Sscanf(config, "%d.", &major)
	return g.since("2016") && err == nil && major >= 8
}
