package winsvc

import (
	"fmt"
	"strings"
)

// firewallRule is the name of the one rule that a persistent component needs.
const firewallRule = "Hikae installer service"

// allowArguments are netsh's, to let TCP connections to one port of one program in.
func allowArguments(program string, port int) ([]string, error) {
	if port < 1 || port > 65535 {
		return nil, fmt.Errorf("port %d: 1 to 65535", port)
	}
	if program == "" || strings.ContainsAny(program, "\"\r\n\x00") {
		return nil, fmt.Errorf("program %q cannot stand in a rule", program)
	}
	return []string{"advfirewall", "firewall", "add", "rule", "name=" + firewallRule, "dir=in", "action=allow",
		"protocol=TCP", fmt.Sprintf("localport=%d", port), "program=" + program, "enable=yes"}, nil
}

// forbidArguments are netsh's, to take that rule away.
func forbidArguments() []string {
	return []string{"advfirewall", "firewall", "delete", "rule", "name=" + firewallRule}
}
