package xfs_test

// variant is a way to make a file system.
type variant struct {
	name string
	args []string
	v4   bool // the kernel here may not be able to mount it

	stripes bool // records of the log are at least a stripe long
}

var variants = []variant{
	{name: "default"},
	{name: "no reflink", args: []string{"-m", "reflink=0"}},
	{name: "rmapbt", args: []string{"-m", "rmapbt=1"}},
	{name: "plain v5", args: []string{"-m", "reflink=0,finobt=0,inobtcount=0,bigtime=0", "-i", "sparse=0"}},
	{name: "blocks of 1 KiB", args: []string{"-b", "size=1k"}},
	{name: "blocks of 2 KiB and large directory blocks", args: []string{"-b", "size=2048", "-n", "size=32768"}},
	{name: "blocks of 16 KiB", args: []string{"-b", "size=16k", "-m", "rmapbt=1"}},
	{name: "blocks of 64 KiB", args: []string{"-b", "size=64k"}},
	{name: "sectors of 4 KiB", args: []string{"-s", "size=4k", "-m", "rmapbt=1"}},
	{name: "large inodes", args: []string{"-i", "size=2048"}},
	{name: "inodes of 1 KiB and directory blocks of 16 KiB", args: []string{"-i", "size=1024", "-n", "size=16384"}},
	{name: "one group", args: []string{"-d", "agcount=1"}},
	{name: "many groups", args: []string{"-d", "agcount=19"}},
	{name: "nrext64", args: []string{"-i", "nrext64=1", "-m", "rmapbt=1"}},
	{name: "log stripes", args: []string{"-l", "su=256k"}, stripes: true},
	{name: "small log", args: []string{"-d", "size=320m", "-l", "size=10m", "-m", "finobt=0"}},
	{name: "another UUID", args: []string{"-m", "uuid=12345678-1234-1234-1234-123456789abc", "-L", "twelve chars"}},
	{name: "times of 32 bits and stripes", args: []string{"-d", "size=1024m", "-m", "bigtime=0,inobtcount=0", "-d", "su=64k,sw=4"}, stripes: true},
	{name: "v4", args: []string{"-m", "crc=0,finobt=0,reflink=0", "-i", "size=256"}, v4: true},
	{name: "v4 blocks of 512 bytes", args: []string{"-m", "crc=0", "-b", "size=512", "-n", "size=4k,ftype=1"}, v4: true},
	{name: "v4 without types", args: []string{"-m", "crc=0", "-n", "ftype=0", "-l", "version=1"}, v4: true},
}
