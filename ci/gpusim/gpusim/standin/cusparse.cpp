// What CuPy's sparse matrices call when they are made. Everything that computes is generated as a refusal (see build.py).
namespace {

enum Status { SUCCESS = 0 };
int descriptor;  // nothing reads it

}  // namespace

extern "C" {

int cusparseCreateMatDescr(void** created) {
    *created = &descriptor;
    return SUCCESS;
}

int cusparseDestroyMatDescr(void*) { return SUCCESS; }

const char* cusparseGetErrorName(int) { return "CUSPARSE_STATUS_NOT_SUPPORTED"; }
const char* cusparseGetErrorString(int) { return "the stand-in has no cuSPARSE"; }

}
