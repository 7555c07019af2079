package record

import (
	"strconv"
	"strings"
)

// BinlogPosition is the content of the record binlog.json: where in the binary log an image of MariaDB or MySQL stands.
// Changes from there on are not in the image.
type BinlogPosition struct {
	Version string `json:"version"`
	Server  string `json:"server"` // server_id
	Data    string `json:"data"`
	File    string `json:"file"` // empty: the server keeps no binary log
	Offset  int64  `json:"offset"`
	GTID    string `json:"gtid"`
	Time    string `json:"time"` // RFC 3339: when commits were held
}

// BinlogNumber takes the name of a binary log apart: a base, a dot, six digits or more.
func BinlogNumber(name string) (base string, n int64, ok bool) {
	at := strings.LastIndexByte(name, '.')
	if at < 1 || len(name)-at-1 < 6 || len(name) > 255 || strings.ContainsAny(name, "/\x00") || strings.Trim(name[at+1:], "0123456789") != "" {
		return "", 0, false
	}
	n, err := strconv.ParseInt(name[at+1:], 10, 64)
	return name[:at], n, err == nil
}
