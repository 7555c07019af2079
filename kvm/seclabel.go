package kvm

import (
	"encoding/xml"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// ownerIn is whose a domain's files must be, by libvirt's description of it while it runs: the user that its QEMU runs
// as, and the label by which SELinux lets it at files.
func ownerIn(description []byte) (o owner, err error) {
	var domain struct {
		Labels []struct {
			Model string `xml:"model,attr"`
			Label string `xml:"label"`
			Image string `xml:"imagelabel"`
		} `xml:"seclabel"`
	}
	if err := xml.Unmarshal(description, &domain); err != nil {
		return o, err
	}
	for _, l := range domain.Labels {
		switch l.Model {
		case "dac":
			if o.uid, o.gid, err = userGroup(l.Label); err != nil {
				return owner{}, err
			}
		case "selinux":
			o.label = strings.TrimSpace(l.Image)
		}
	}
	return o, nil
}

// userGroup reads "+64055:+108". Where the configuration says it by names, libvirt shows numbers all the same.
func userGroup(text string) (uid, gid int, err error) {
	user, group, ok := strings.Cut(strings.TrimSpace(text), ":")
	if ok {
		uid, err = strconv.Atoi(user)
	}
	if ok && err == nil {
		gid, err = strconv.Atoi(group)
	}
	if !ok || err != nil || uid < 0 || gid < 0 {
		return 0, 0, fmt.Errorf("%w: %q is no pair of user and group", fs.ErrInvalid, text)
	}
	return uid, gid, nil
}
