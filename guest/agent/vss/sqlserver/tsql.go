package sqlserver

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf16"
)

// maxName is the longest name of a database, in UTF-16 units.
const maxName = 128

// units is a text as the server keeps it: UTF-16, little-endian.
func units(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return b
}

// textOf is the reverse.
func textOf(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = uint16(b[2*i]) | uint16(b[2*i+1])<<8
	}
	return string(utf16.Decode(u))
}

// declare gives a variable a text as a number.
func declare(variable, text string) string {
	b := units(text)
	return fmt.Sprintf("DECLARE @%s nvarchar(%d) = CONVERT(nvarchar(%[2]d), 0x%s);", variable, max(len(b)/2, 1), hex.EncodeToString(b))
}

// row selects columns as one line of ours: the mark, and each column in hexadecimal.
func row(mark string, columns ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "SELECT '%s row'", mark)
	for _, c := range columns {
		fmt.Fprintf(&b, " + ' ' + ISNULL(CONVERT(varchar(1100), CONVERT(varbinary(540), CONVERT(nvarchar(270), %s)), 2), '')", c)
	}
	return b.String()
}

// listDatabases asks for all databases but those that have no log worth keeping: master, tempdb, model.
func listDatabases(mark string) string {
	return row(mark, "d.name", "d.recovery_model", "d.state", "d.is_read_only",
		"CASE WHEN r.last_log_backup_lsn IS NULL THEN 0 ELSE 1 END", "sys.fn_hadr_backup_is_preferred_replica(d.name)") +
		" FROM sys.databases d LEFT JOIN sys.database_recovery_status r ON r.database_id = d.database_id" +
		" WHERE d.database_id > 3 AND d.source_database_id IS NULL ORDER BY d.database_id;"
}

// serverFacts asks for the version and the folder that backups go to.
func serverFacts(mark string) string {
	return "DECLARE @p nvarchar(260);" +
		" EXEC master.dbo.xp_instance_regread N'HKEY_LOCAL_MACHINE', N'Software\\Microsoft\\MSSQLServer\\MSSQLServer', N'BackupDirectory', @p OUTPUT;" +
		" " + row(mark, "SERVERPROPERTY('ProductVersion')", "@p") + ";"
}

// backupLog writes a log to a file.
func backupLog(database, file string) string {
	return declare("d", database) + " " + declare("f", file) +
		" BACKUP LOG @d TO DISK = @f WITH FORMAT, INIT, CHECKSUM, NAME = N'hikae';"
}

// verifyBackup reads a backup to its end and holds its sums against it.
func verifyBackup(file string) string {
	return declare("f", file) + " RESTORE VERIFYONLY FROM DISK = @f WITH CHECKSUM;"
}

// discardLog writes a log to nowhere: NUL is the device that keeps nothing.
func discardLog(database string) string {
	return declare("d", database) + " BACKUP LOG @d TO DISK = N'NUL' WITH NAME = N'hikae discard';"
}
