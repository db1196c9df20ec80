// Rows of a table by their ids, and what flows back to the table.

// out [M, width] = rows of table [n_table, width] by ids [M]; NaN for an id that is out of range. One block a row.
extern "C" __global__ void gather_rows(const float* table, const int* ids, T* out, int n_table, int width) {
    const int id = ids[blockIdx.x];
    const bool known = id >= 0 && id < n_table;
    table += static_cast<long long>(known ? id : 0) * width;
    out += static_cast<long long>(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        out[i] = from_float<T>(known ? table[i] : NOT_A_NUMBER);
    }
}

// The same between arrays of one type.
extern "C" __global__ void take_rows(const T* table, const int* rows, T* out, int n_table, int width) {
    const int row = rows[blockIdx.x];
    const bool known = row >= 0 && row < n_table;
    table += static_cast<long long>(known ? row : 0) * width;
    out += static_cast<long long>(blockIdx.x) * width;
    over_run<1>({table}, out, width, [=](int, const float* in) { return known ? in[0] : NOT_A_NUMBER; });
}

// out [n_out, width], rows of which `rows` [M] names each at most once, get values [M, width]; rows that are out of
// range are left out. One block a row.
extern "C" __global__ void put_rows(const T* values, const int* rows, T* out, int n_out, int width) {
    const int row = rows[blockIdx.x];
    if (row < 0 || row >= n_out) {
        return;
    }
    values += static_cast<long long>(blockIdx.x) * width;
    out += static_cast<long long>(row) * width;
    over_run<1>({values}, out, width, [](int, const float* in) { return in[0]; });
}

// Block (r, c): if position r begins a run of equal ids in `order` (rows of dy sorted by id, equal ids in the order of
// the rows), adds the run to its row of out [V, width], in columns c·blockDim ...: the same bits each time.
// Ids that are out of range add nothing; forward has made their rows NaN.
extern "C" __global__ void add_by_id(
    const T* dy, const int* ids, const long long* order, float* out, int n_rows, int n_table, int width) {
    const int start = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;
    const int id = ids[order[start]];
    if (column >= width || id < 0 || id >= n_table || (start > 0 && ids[order[start - 1]] == id)) {
        return;
    }
    float* sum = out + static_cast<long long>(id) * width + column;
    float value = *sum;
    for (int i = start; i < n_rows && ids[order[i]] == id; i++) {
        value += to_float(dy[order[i] * width + column]);
    }
    *sum = value;
}
