// Package record has what package apps writes for a restore to read: the JSON of its records, and how transaction logs
// are named. It is bytes and names alone, for whoever has an image and its records and no guest.
package record
