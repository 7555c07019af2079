/*
 * A vssapi.dll for tests: it keeps the order of calls, as far as Microsoft's documentation says what it is, and writes
 * each call into the file that HIKAE_VSS_LOG names. Its tables of methods are those of the published headers, so that a
 * wrong slot or a wrong way to pass an argument shows. HIKAE_VSS_PLAY says what goes wrong, as words with spaces between:
 *
 *   busy        StartSnapshotSet answers twice that another one is in progress
 *   hang        DoSnapshotSet never ends, and can be cancelled
 *   stuck       PrepareForBackup never comes back from Wait, for 30 s
 *   fail        the first writer fails to freeze, in time
 *   room        DoSnapshotSet ends: not enough room
 *   denied      CreateVssBackupComponents is refused
 *   noprepare   PrepareForBackup wants a snapshot set first
 *   large       documents of 3 MiB
 *   kept        our shadow copy is there although nobody of this process made it
 *
 * HIKAE_VSS_DEVICE is where the shadow copy shall be said to be.
 */
#define CINTERFACE
#define COBJMACROS
#define INITGUID
#include <windows.h>
#include <oleauto.h>
#include <stdio.h>
#include <string.h>
#include <vss.h>
#include <vswriter.h>
#include <vsbackup.h>

static char log_path[MAX_PATH], play[256];
static LONG live; /* objects that nobody has released */
static int starts;

static void say(const char *format, ...)
{
	va_list args;
	FILE *f = fopen(log_path, "a");
	if (!f)
		return;
	va_start(args, format);
	vfprintf(f, format, args);
	va_end(args);
	fputc('\n', f);
	fclose(f);
}

static int plays(const char *word) { return strstr(play, word) != NULL; }

/* ---- what all objects have ---- */

struct object { void **methods; LONG refs; UINT writer, part; HRESULT result; int hangs, stuck, cancelled; };

static struct object *make(void **methods)
{
	struct object *o = calloc(1, sizeof *o);
	o->methods = methods;
	o->refs = 1;
	InterlockedIncrement(&live);
	return o;
}
static HRESULT STDMETHODCALLTYPE query(void *this, REFIID iid, void **out) { say("QueryInterface"); return E_NOINTERFACE; }
static ULONG STDMETHODCALLTYPE add_ref(void *this) { return InterlockedIncrement(&((struct object *)this)->refs); }
static ULONG STDMETHODCALLTYPE release(void *this)
{
	struct object *o = this;
	LONG n = InterlockedDecrement(&o->refs);
	if (n == 0) {
		InterlockedDecrement(&live);
		free(o);
	}
	return n;
}
static HRESULT STDMETHODCALLTYPE unexpected(void *this) { say("a method that nobody should call"); return E_UNEXPECTED; }

static void base(void **methods, size_t bytes)
{
	for (size_t i = 0; i < bytes / sizeof *methods; i++)
		methods[i] = unexpected;
	methods[0] = query;
	methods[1] = add_ref;
	methods[2] = release;
}

/* ---- IVssAsync ---- */

static IVssAsyncVtbl async_methods;

static HRESULT STDMETHODCALLTYPE async_cancel(IVssAsync *this)
{
	say("Cancel");
	((struct object *)this)->cancelled = 1;
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE async_wait(IVssAsync *this, DWORD millis)
{
	struct object *o = (struct object *)this;
	if (o->stuck)
		Sleep(30000);
	else if (o->hangs && !o->cancelled)
		Sleep(millis > 1000 ? 1000 : millis);
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE async_status(IVssAsync *this, HRESULT *result, INT *reserved)
{
	struct object *o = (struct object *)this;
	if (o->cancelled)
		*result = VSS_S_ASYNC_CANCELLED;
	else if (o->hangs || o->stuck)
		*result = VSS_S_ASYNC_PENDING;
	else
		*result = FAILED(o->result) ? o->result : VSS_S_ASYNC_FINISHED;
	return S_OK;
}
static struct object *async(IVssAsync **out, HRESULT result)
{
	struct object *o = make((void **)&async_methods);
	o->result = result;
	*out = (IVssAsync *)o;
	return o;
}

/* ---- the writers: two, of which the first has three components, and Hyper-V's for whoever asks for that class alone ---- */

enum { WRITERS = 3, HYPERV = 2 };
static const VSS_ID instances[WRITERS] = {{0x11111111, 0x2222, 0x3333, {1, 2, 3, 4, 5, 6, 7, 8}}, {0x44444444, 0x5555, 0x6666, {8, 7, 6, 5, 4, 3, 2, 1}},
	{0x77777777, 0x8888, 0x9999, {7, 7, 7, 7, 7, 7, 7, 7}}};
static const VSS_ID classes[WRITERS] = {{0xAAAAAAAA, 0xBBBB, 0xCCCC, {9, 9, 9, 9, 9, 9, 9, 1}}, {0xDDDDDDDD, 0xEEEE, 0xFFFF, {9, 9, 9, 9, 9, 9, 9, 2}},
	{0x66841CD4, 0x6DED, 0x4F4B, {0x8F, 0x17, 0xFD, 0x23, 0xF8, 0xDD, 0xC3, 0xDE}}};
static const WCHAR *names[WRITERS] = {L"Store Writer \x00DF\xD83D\xDE00", L"Registry Writer", L"Microsoft Hyper-V VSS Writer"};
struct part { VSS_COMPONENT_TYPE type; const WCHAR *path, *name; boolean selectable; };
static const struct part parts[WRITERS][3] = {
	{{VSS_CT_DATABASE, L"Store", L"DB1", TRUE}, {VSS_CT_FILEGROUP, L"Store\\DB1", L"Logs", FALSE}, {VSS_CT_DATABASE, L"Store\\DB1", L"File", TRUE}},
	{{VSS_CT_FILEGROUP, NULL, L"Registry", FALSE}},
	{{VSS_CT_FILEGROUP, NULL, L"Host Component", TRUE}, {VSS_CT_FILEGROUP, NULL, L"0A1B2C3D-0000-4000-8000-0000000000A1", TRUE}},
};
static const UINT part_counts[WRITERS] = {3, 1, 2};
static int hyperv; /* that class alone was asked for */
static int there;  /* our shadow copy */

static BSTR text_or_null(const WCHAR *s) { return s ? SysAllocString(s) : NULL; }

static BSTR document(const char *root)
{
	UINT n = plays("large") ? 3 << 20 : 64;
	BSTR s = SysAllocStringLen(NULL, n);
	for (UINT i = 0; i < n; i++)
		s[i] = ' ';
	s[0] = '<';
	for (UINT i = 0; root[i]; i++)
		s[1 + i] = root[i];
	s[n - 2] = '/';
	s[n - 1] = '>';
	return s;
}

static IVssWMFiledescVtbl file_methods;
static HRESULT STDMETHODCALLTYPE file_path(IVssWMFiledesc *this, BSTR *out)
{
	static const WCHAR *folders[WRITERS] = {L"D:\\store", L"C:\\Windows\\System32\\config", L"C:\\VMs\\"};
	*out = SysAllocString(folders[((struct object *)this)->writer]);
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE file_spec(IVssWMFiledesc *this, BSTR *out)
{
	*out = SysAllocString(L"web\x00DF.vhdx");
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE file_recursive(IVssWMFiledesc *this, boolean *out)
{
	*out = FALSE;
	return S_OK;
}

static IVssWMComponentVtbl part_methods;
static LONG infos;
static HRESULT STDMETHODCALLTYPE part_info(IVssWMComponent *this, PVSSCOMPONENTINFO *out)
{
	struct object *o = (struct object *)this;
	const struct part *p = &parts[o->writer][o->part];
	VSS_COMPONENTINFO *i = calloc(1, sizeof *i);
	i->type = p->type;
	i->bstrLogicalPath = text_or_null(p->path);
	i->bstrComponentName = SysAllocString(p->name);
	i->bstrCaption = o->writer == HYPERV ? SysAllocString(L"Online\\web1") : NULL;
	i->bSelectable = p->selectable;
	i->bNotifyOnBackupComplete = TRUE;
	i->dwComponentFlags = 0xFFFFFFFF;
	i->cFileCount = p->type == VSS_CT_FILEGROUP;
	i->cDatabases = p->type == VSS_CT_DATABASE;
	i->cLogFiles = 0;
	i->cDependencies = 77;
	*out = i;
	infos++;
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE part_free(IVssWMComponent *this, PVSSCOMPONENTINFO p)
{
	VSS_COMPONENTINFO *i = (VSS_COMPONENTINFO *)p;
	SysFreeString(i->bstrLogicalPath);
	SysFreeString(i->bstrComponentName);
	SysFreeString(i->bstrCaption);
	free(i);
	infos--;
	return S_OK;
}
static HRESULT part_some_file(struct object *o, UINT i, IVssWMFiledesc **out, VSS_COMPONENT_TYPE type)
{
	struct object *f;
	if (i != 0 || parts[o->writer][o->part].type != type)
		return E_INVALIDARG;
	f = make((void **)&file_methods);
	f->writer = o->writer;
	*out = (IVssWMFiledesc *)f;
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE part_file(IVssWMComponent *this, UINT i, IVssWMFiledesc **out) { return part_some_file((struct object *)this, i, out, VSS_CT_FILEGROUP); }
static HRESULT STDMETHODCALLTYPE part_database(IVssWMComponent *this, UINT i, IVssWMFiledesc **out) { return part_some_file((struct object *)this, i, out, VSS_CT_DATABASE); }

static IVssExamineWriterMetadataVtbl meta_methods;
static HRESULT STDMETHODCALLTYPE meta_identity(IVssExamineWriterMetadata *this, VSS_ID *instance, VSS_ID *class, BSTR *name, VSS_USAGE_TYPE *usage, VSS_SOURCE_TYPE *source)
{
	UINT w = ((struct object *)this)->writer;
	*instance = instances[w];
	*class = classes[w];
	*name = SysAllocString(names[w]);
	*usage = VSS_UT_USERDATA;
	*source = VSS_ST_TRANSACTEDDB;
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE meta_counts(IVssExamineWriterMetadata *this, UINT *include, UINT *exclude, UINT *components)
{
	*include = 9;
	*exclude = 8;
	*components = part_counts[((struct object *)this)->writer];
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE meta_part(IVssExamineWriterMetadata *this, UINT i, IVssWMComponent **out)
{
	struct object *o = make((void **)&part_methods);
	o->writer = ((struct object *)this)->writer;
	o->part = i;
	*out = (IVssWMComponent *)o;
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE meta_save(IVssExamineWriterMetadata *this, BSTR *out) { *out = document("WRITER_METADATA"); return S_OK; }

/* ---- IVssBackupComponents ---- */

enum { NEW, INITIALIZED, STATED, GATHERED, STARTED, PREPARED, DONE, COMPLETE, ABORTED } state;
static int volumes, statuses;

static IVssBackupComponentsVtbl methods;

#define WANT(condition)                                                                                                \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			say("%s: BAD STATE %d", __func__, state);                                                      \
			return VSS_E_BAD_STATE;                                                                        \
		}                                                                                                      \
	} while (0)

static HRESULT STDMETHODCALLTYPE initialize(IVssBackupComponents *this, BSTR xml)
{
	WANT(state == NEW && xml == NULL);
	say("InitializeForBackup");
	state = INITIALIZED;
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE set_context(IVssBackupComponents *this, LONG context)
{
	WANT(state == INITIALIZED);
	say("SetContext %ld", context);
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE set_state(IVssBackupComponents *this, boolean select, boolean bootable, VSS_BACKUP_TYPE type, boolean partial)
{
	WANT(state == INITIALIZED);
	say("SetBackupState %d %d %d %d", select, bootable, type, partial);
	state = STATED;
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE gather(IVssBackupComponents *this, IVssAsync **out)
{
	WANT(state == STATED);
	say("GatherWriterMetadata");
	state = GATHERED;
	async(out, S_OK);
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE enable(IVssBackupComponents *this, const VSS_ID *list, UINT n)
{
	WANT(state == STATED);
	hyperv = n == 1 && IsEqualGUID(&list[0], &classes[HYPERV]);
	say("EnableWriterClasses %u %d", n, hyperv);
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE meta_count(IVssBackupComponents *this, UINT *n) { *n = hyperv ? 1 : 2; return S_OK; }
static HRESULT STDMETHODCALLTYPE meta_get(IVssBackupComponents *this, UINT i, VSS_ID *instance, IVssExamineWriterMetadata **out)
{
	struct object *o = make((void **)&meta_methods);
	if (hyperv)
		i = HYPERV;
	o->writer = i;
	*instance = instances[i];
	*out = (IVssExamineWriterMetadata *)o;
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE meta_free(IVssBackupComponents *this) { say("FreeWriterMetadata"); return S_OK; }

static HRESULT known(const char *call, VSS_ID instance, VSS_ID class, VSS_COMPONENT_TYPE type, LPCWSTR path, LPCWSTR name, int succeeded)
{
	for (UINT w = 0; w < WRITERS; w++)
		for (UINT p = 0; p < part_counts[w]; p++)
			if (IsEqualGUID(&instance, &instances[w]) && IsEqualGUID(&class, &classes[w]) && type == parts[w][p].type && !wcscmp(name, parts[w][p].name) &&
			    ((path == NULL && parts[w][p].path == NULL) || (path && parts[w][p].path && !wcscmp(path, parts[w][p].path)))) {
				say("%s %u %ls %d", call, w, name, succeeded);
				return S_OK;
			}
	say("%s: no such component", call);
	return VSS_E_OBJECT_NOT_FOUND;
}
static HRESULT STDMETHODCALLTYPE add_component(IVssBackupComponents *this, VSS_ID instance, VSS_ID class, VSS_COMPONENT_TYPE type, LPCWSTR path, LPCWSTR name)
{
	WANT(state == GATHERED);
	return known("AddComponent", instance, class, type, path, name, 1);
}
static HRESULT STDMETHODCALLTYPE prepare(IVssBackupComponents *this, IVssAsync **out)
{
	struct object *o;
	WANT(state == STARTED || (state == GATHERED && !plays("noprepare")));
	say("PrepareForBackup");
	state = PREPARED;
	o = async(out, S_OK);
	o->stuck = plays("stuck");
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE abort_backup(IVssBackupComponents *this)
{
	WANT(state != NEW && state != COMPLETE);
	say("AbortBackup");
	state = ABORTED;
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE gather_status(IVssBackupComponents *this, IVssAsync **out)
{
	WANT(state >= GATHERED);
	say("GatherWriterStatus");
	statuses++;
	async(out, S_OK);
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE status_count(IVssBackupComponents *this, UINT *n) { *n = hyperv ? 1 : 2; return S_OK; }
static HRESULT STDMETHODCALLTYPE status_free(IVssBackupComponents *this) { return S_OK; }
static HRESULT STDMETHODCALLTYPE status_get(IVssBackupComponents *this, UINT i, VSS_ID *instance, VSS_ID *class, BSTR *name, VSS_WRITER_STATE *ws, HRESULT *result)
{
	if (hyperv)
		i = HYPERV;
	*instance = instances[i];
	*class = classes[i];
	*name = SysAllocString(names[i]);
	*ws = VSS_WS_STABLE;
	*result = S_OK;
	if ((i == 0 || i == HYPERV) && state == DONE && plays("fail")) {
		*ws = VSS_WS_FAILED_AT_FREEZE;
		*result = VSS_E_WRITERERROR_TIMEOUT;
	}
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE set_succeeded(IVssBackupComponents *this, VSS_ID instance, VSS_ID class, VSS_COMPONENT_TYPE type, LPCWSTR path, LPCWSTR name, boolean succeeded)
{
	WANT(state == DONE);
	return known("SetBackupSucceeded", instance, class, type, path, name, succeeded);
}
static HRESULT STDMETHODCALLTYPE save(IVssBackupComponents *this, BSTR *out)
{
	WANT(state >= GATHERED);
	say("SaveAsXML");
	*out = document("BACKUP_COMPONENTS");
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE complete(IVssBackupComponents *this, IVssAsync **out)
{
	WANT(state == DONE);
	say("BackupComplete");
	state = COMPLETE;
	async(out, S_OK);
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE start_set(IVssBackupComponents *this, VSS_ID *set)
{
	WANT(state == GATHERED);
	say("StartSnapshotSet");
	if (plays("busy") && starts++ < 2)
		return VSS_E_SNAPSHOT_SET_IN_PROGRESS;
	state = STARTED;
	memset(set, 7, sizeof *set);
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE add_volume(IVssBackupComponents *this, VSS_PWSZ name, VSS_ID provider, VSS_ID *shadow)
{
	static const VSS_ID zero;
	WANT(state == STARTED && IsEqualGUID(&provider, &zero));
	say("AddToSnapshotSet %ls", name);
	memset(shadow, 0x42, sizeof *shadow);
	volumes++;
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE do_set(IVssBackupComponents *this, IVssAsync **out)
{
	struct object *o;
	WANT(state == PREPARED && volumes > 0);
	say("DoSnapshotSet");
	o = async(out, plays("room") ? VSS_E_INSUFFICIENT_STORAGE : S_OK);
	o->hangs = plays("hang");
	if (!o->hangs && !plays("room"))
		state = DONE, there = 1;
	return S_OK;
}
/* where it is can be told, so that there is something to read */
static void shadow(VSS_SNAPSHOT_PROP *p)
{
	WCHAR device[200];
	if (!GetEnvironmentVariableW(L"HIKAE_VSS_DEVICE", device, 200))
		wcscpy(device, L"\\\\?\\GLOBALROOT\\Device\\HarddiskVolumeShadowCopy5");
	memset(p, 0, sizeof *p);
	memset(&p->m_SnapshotId, 0x42, sizeof(VSS_ID));
	memset(&p->m_SnapshotSetId, 7, sizeof(VSS_ID));
	p->m_pwszSnapshotDeviceObject = _wcsdup(device);
	p->m_pwszOriginalVolumeName = _wcsdup(L"\\\\?\\Volume{a}\\");
	p->m_lSnapshotAttributes = VSS_VOLSNAP_ATTR_AUTORECOVER;
	p->m_tsCreationTimestamp = 132539328000000000; /* the beginning of 2021 */
	p->m_eStatus = VSS_SS_CREATED;
}
static HRESULT STDMETHODCALLTYPE properties(IVssBackupComponents *this, VSS_ID id, VSS_SNAPSHOT_PROP *p)
{
	VSS_ID want;
	memset(&want, 0x42, sizeof want);
	WANT(state == DONE && IsEqualGUID(&id, &want));
	shadow(p);
	return S_OK;
}

/* ---- shadow copies that there are: one, once it was made, and another program's ---- */

static IVssEnumObjectVtbl enum_methods;
static HRESULT STDMETHODCALLTYPE enum_next(IVssEnumObject *this, ULONG n, VSS_OBJECT_PROP *p, ULONG *fetched)
{
	struct object *o = (struct object *)this;
	*fetched = 0;
	if (o->part == 0 && !there)
		o->part++;
	if (n != 1 || o->part > 1)
		return S_FALSE;
	memset(p, 0, sizeof *p);
	p->Type = VSS_OBJECT_SNAPSHOT;
	shadow(&p->Obj.Snap);
	if (o->part++ == 1)
		memset(&p->Obj.Snap.m_SnapshotSetId, 0x66, sizeof(VSS_ID));
	*fetched = 1;
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE query_all(IVssBackupComponents *this, VSS_ID id, VSS_OBJECT_TYPE kind, VSS_OBJECT_TYPE of, IVssEnumObject **out)
{
	static const VSS_ID zero;
	WANT(state >= INITIALIZED && IsEqualGUID(&id, &zero) && kind == VSS_OBJECT_NONE && of == VSS_OBJECT_SNAPSHOT);
	say("Query");
	*out = (IVssEnumObject *)make((void **)&enum_methods);
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE delete_set(IVssBackupComponents *this, VSS_ID id, VSS_OBJECT_TYPE kind, WINBOOL force, LONG *deleted, VSS_ID *stayed)
{
	VSS_ID want;
	memset(&want, 7, sizeof want);
	WANT(state >= INITIALIZED && kind == VSS_OBJECT_SNAPSHOT_SET && force);
	say("DeleteSnapshots %d", IsEqualGUID(&id, &want) && there);
	if (!IsEqualGUID(&id, &want) || !there)
		return VSS_E_OBJECT_NOT_FOUND;
	there = 0;
	*deleted = 1;
	return S_OK;
}
static HRESULT STDMETHODCALLTYPE supported(IVssBackupComponents *this, VSS_ID provider, VSS_PWSZ name, WINBOOL *yes)
{
	*yes = TRUE;
	return S_OK;
}
static ULONG STDMETHODCALLTYPE last_release(IVssBackupComponents *this)
{
	ULONG n = release(this);
	if (n == 0)
		say("Release: %ld objects, %ld descriptions left", live, infos);
	return n;
}

__declspec(dllexport) void WINAPI VssFreeSnapshotPropertiesInternal(VSS_SNAPSHOT_PROP *p)
{
	free(p->m_pwszSnapshotDeviceObject);
	free(p->m_pwszOriginalVolumeName);
}

__declspec(dllexport) HRESULT WINAPI CreateVssBackupComponentsInternal(IVssBackupComponents **out)
{
	GetEnvironmentVariableA("HIKAE_VSS_LOG", log_path, sizeof log_path);
	if (!GetEnvironmentVariableA("HIKAE_VSS_PLAY", play, sizeof play))
		play[0] = 0;
	if (plays("denied"))
		return E_ACCESSDENIED;
	state = NEW;
	starts = volumes = statuses = hyperv = 0;
	if (plays("kept"))
		there = 1;
	base((void **)&async_methods, sizeof async_methods);
	async_methods.Cancel = async_cancel;
	async_methods.Wait = async_wait;
	async_methods.QueryStatus = async_status;
	base((void **)&file_methods, sizeof file_methods);
	file_methods.GetPath = file_path;
	file_methods.GetFilespec = file_spec;
	file_methods.GetRecursive = file_recursive;
	base((void **)&enum_methods, sizeof enum_methods);
	enum_methods.Next = enum_next;
	base((void **)&part_methods, sizeof part_methods);
	part_methods.GetComponentInfo = part_info;
	part_methods.FreeComponentInfo = part_free;
	part_methods.GetFile = part_file;
	part_methods.GetDatabaseFile = part_database;
	base((void **)&meta_methods, sizeof meta_methods);
	meta_methods.GetIdentity = meta_identity;
	meta_methods.GetFileCounts = meta_counts;
	meta_methods.GetComponent = meta_part;
	meta_methods.SaveAsXML = meta_save;
	base((void **)&methods, sizeof methods);
	methods.Release = last_release;
	methods.InitializeForBackup = initialize;
	methods.SetContext = set_context;
	methods.SetBackupState = set_state;
	methods.GatherWriterMetadata = gather;
	methods.GetWriterMetadataCount = meta_count;
	methods.GetWriterMetadata = meta_get;
	methods.FreeWriterMetadata = meta_free;
	methods.AddComponent = add_component;
	methods.PrepareForBackup = prepare;
	methods.AbortBackup = abort_backup;
	methods.GatherWriterStatus = gather_status;
	methods.GetWriterStatusCount = status_count;
	methods.FreeWriterStatus = status_free;
	methods.GetWriterStatus = status_get;
	methods.SetBackupSucceeded = set_succeeded;
	methods.SaveAsXML = save;
	methods.BackupComplete = complete;
	methods.StartSnapshotSet = start_set;
	methods.AddToSnapshotSet = add_volume;
	methods.DoSnapshotSet = do_set;
	methods.GetSnapshotProperties = properties;
	methods.DeleteSnapshots = delete_set;
	methods.Query = query_all;
	methods.EnableWriterClasses = enable;
	methods.IsVolumeSupported = supported;
	*out = (IVssBackupComponents *)make((void **)&methods);
	return S_OK;
}
