/* SPDX-License-Identifier: Apache-2.0 */
/* AdamW and SGD against PyTorch 2.13: four steps on given gradients from given starts, in
 * f32 and f64, for a matrix (which decays) and a vector (which does not). The expected
 * numbers are torch.optim's in f64, for value[i] = 0.5 cos(0.7 i + 0.3) and the gradient
 * 0.3 sin(1.3 i + 0.9 t) + 0.05 (t - 1), t = 0..3. */
#include "run/run.h"
#include "support/folder.h"
#include "support/tiny_model.h"

enum { N = 16 };

static const struct { const char *optimizer, *settings[5]; double lr, decays[N], plain[N]; } cases[] = {
    { "adamw", { NULL }, 0.01,
          { 0.4655179733870804, 0.23665756811260841, -0.06141671048119067, -0.33511509570148529,
            -0.48434896274645362, -0.43086160569045745, -0.1357367253220306, 0.24506145273358221,
            0.49521474230007206, 0.48562394743248771, 0.22591256291768397, -0.098959465555339021,
            -0.33935040852626192, -0.47084112403508943, -0.3852382028590024, -0.1348309024794169 },
          { 0.4655179733870804, 0.23665756811260841, -0.06141671048119067, -0.33511509570148529,
            -0.48434896274645362, -0.43086160569045745, -0.1357367253220306, 0.24506145273358221,
            0.49521474230007206, 0.48562394743248771, 0.22591256291768397, -0.098959465555339021,
            -0.33935040852626192, -0.47084112403508943, -0.3852382028590024, -0.1348309024794169 } },
    { "adamw", { "beta1=0.8", "beta2=0.95", "eps=1e-4", "weight-decay=0.3", NULL }, 0.02,
          { 0.43930976175007291, 0.19995910071362577, -0.052718991820041243, -0.29582555235030072,
            -0.46250912814261691, -0.45763419916817688, -0.15959692275082252, 0.25299359549752476,
            0.51202012410305242, 0.47962052902734864, 0.18252774679915207, -0.11880054875947355,
            -0.29507541426318312, -0.4340863147793747, -0.37590117882005419, -0.16936031081267092 },
          { 0.45077763673669441, 0.2056857169722332, -0.054505382155146213, -0.3038887255340415,
            -0.47385146465086325, -0.46769861620228148, -0.16278265233134592, 0.25844452200273066,
            0.52374518506427892, 0.49139860810444508, 0.18809424560961452, -0.12117702317199064,
            -0.30331550940076785, -0.44529686922055856, -0.38478885164253523, -0.17237706501136427 } },
    { "sgd", { NULL }, 0.1,
          { 0.40213161194061769, 0.22844617024320554, -0.025847705988315154, -0.32100460935750036,
            -0.52727689855362914, -0.47265055090988795, -0.13362260074325435, 0.28167485824889371,
            0.50268162147758366, 0.43388384598717467, 0.18738706500906654, -0.086641069226251699,
            -0.32075333299368797, -0.47194567307862295, -0.44357721503449143, -0.16822752158983992 },
          { 0.40213161194061769, 0.22844617024320554, -0.025847705988315154, -0.32100460935750036,
            -0.52727689855362914, -0.47265055090988795, -0.13362260074325435, 0.28167485824889371,
            0.50268162147758366, 0.43388384598717467, 0.18738706500906654, -0.086641069226251699,
            -0.32075333299368797, -0.47194567307862295, -0.44357721503449143, -0.16822752158983992 } },
    { "sgd", { "momentum=0.9", "dampening=0.25", "weight-decay=0.2", NULL }, 0.1,
          { 0.31068782135196887, 0.1032755096142832, -0.023939562013037305, -0.16773960962714077,
            -0.3749676720805204, -0.45279126309261836, -0.19911161562074978, 0.25993244722275016,
            0.53929454299502, 0.42392035922630156, 0.092461875033006638, -0.1489766547467736,
            -0.2308683960704114, -0.2884660621144538, -0.34362039247418386, -0.22280645513204123 },
          { 0.38122685272296314, 0.13926326954708376, -0.034240510261393645, -0.21789675983684859,
            -0.44530655689462362, -0.51348938023067947, -0.2190265409653043, 0.29523785907941774,
            0.61375681481761046, 0.49816089282044196, 0.12911502058811108, -0.16367844385947211,
            -0.28528102407375444, -0.35751561682764121, -0.39941463249288034, -0.24061562019460855 } },
    { "sgd", { "momentum=0.8", "nesterov=on", "weight-decay=0.1", NULL }, 0.1,
          { 0.2538236173494392, 0.10428986355177505, 0.022509305201257265, -0.17032529307871699,
            -0.46328423658101736, -0.54398769491897636, -0.20130733567719095, 0.32163899200645951,
            0.56188620792897825, 0.37228956324460533, 0.040762943381996181, -0.13629140128301512,
            -0.19918914198585511, -0.32494739614779422, -0.441362927325751, -0.28009923207660808 },
          { 0.30054065333328234, 0.12580942578536514, 0.015863546839782614, -0.20102173030231049,
            -0.50976688012380011, -0.58823489907334026, -0.21793926260181409, 0.3471807019043347,
            0.61707446828132428, 0.42460861943118761, 0.063062705780806735, -0.14884837154299937,
            -0.23467902271529015, -0.36865810436020469, -0.47936220597218288, -0.29562926457121708 } },
};

static void put(sy_tensor *t, int i, double v)
{
    if (t->dtype == SY_F64) ((double *)t->data)[i] = v;
    else ((float *)t->data)[i] = (float)v;
}

static double get(const sy_tensor *t, int i) { return t->dtype == SY_F64 ? ((const double *)t->data)[i] : ((const float *)t->data)[i]; }

static void same_as_torch(void **state)
{
    test_folder *f = *state;
    char model[512];
    in_folder(f, model, "model");
    tiny_model_write(f->ctx, &TINY_MODEL, model);
    const char *const adapter[] = { "rank=1", "use-dora=on", "target-modules=q_proj", "layers-to-transform=0", NULL };
    for (int c = 0; c < SYI_COUNT(cases); c++)
        for (int wide = 0; wide < 2; wide++) {
            sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "lora", .settings = adapter, .optimizer = cases[c].optimizer,
                                                             .optimizer_settings = cases[c].settings, .dtype = wide ? SY_F64 : SY_F32 });
            sy_param *matrix = tiny_param(run, "lora_A.weight"), *vector = tiny_param(run, "lora_magnitude_vector");
            assert_int_equal(sy_tensor_count(&matrix->value), N);
            assert_int_equal(sy_tensor_count(&vector->value), N);
            assert_true(matrix->decay && !vector->decay);
            for (int i = 0; i < N; i++) {
                put(&matrix->value, i, 0.5 * cos(0.7 * i + 0.3));
                put(&vector->value, i, 0.5 * cos(0.7 * i + 0.3));
            }
            for (int t = 0; t < 4; t++) {
                for (int i = 0; i < N; i++) {
                    put(&matrix->grad, i, 0.3 * sin(1.3 * i + 0.9 * t) + 0.05 * (t - 1));
                    put(&vector->grad, i, 0.3 * sin(1.3 * i + 0.9 * t) + 0.05 * (t - 1));
                }
                TEST_OK(f->ctx, sy_run_update(run, cases[c].lr, 0, NULL));
                assert_float_equal(get(&matrix->grad, 3), 0, 0); /* cleared for the next step */
            }
            const double tolerance = wide ? 1e-13 : 2e-6;
            for (int i = 0; i < N; i++) {
                if (fabs(get(&matrix->value, i) - cases[c].decays[i]) > tolerance)
                    fail_msg("case %d %s, matrix[%d]: %.17g, torch has %.17g", c, wide ? "f64" : "f32", i, get(&matrix->value, i), cases[c].decays[i]);
                if (fabs(get(&vector->value, i) - cases[c].plain[i]) > tolerance)
                    fail_msg("case %d %s, vector[%d]: %.17g, torch has %.17g", c, wide ? "f64" : "f32", i, get(&vector->value, i), cases[c].plain[i]);
            }
            sy_run_close(run);
        }
}

/* SGD without momentum keeps nothing. */
static void state_is_what_is_needed(void **state)
{
    test_folder *f = *state;
    char model[512];
    in_folder(f, model, "model");
    tiny_model_write(f->ctx, &TINY_MODEL, model);
    static const struct { const char *name, *settings[2]; int n; } wants[] = { { "sgd", { NULL }, 0 }, { "sgd", { "momentum=0.5", NULL }, 1 }, { "adamw", { NULL }, 2 } };
    for (int i = 0; i < SYI_COUNT(wants); i++) {
        sy_run *run = tiny_run_open(f->ctx, &(tiny_run){ .model = model, .adapter = "lora", .optimizer = wants[i].name, .optimizer_settings = wants[i].settings, .dtype = SY_F32 });
        assert_int_equal(tiny_param(run, "lora_A.weight")->n_state, wants[i].n);
        sy_run_close(run);
    }
    const char *const bad[] = { "nesterov=on", NULL };
    sy_run *run;
    assert_int_equal(tiny_run_try(f->ctx, &(tiny_run){ .model = model, .adapter = "lora", .optimizer = "sgd", .optimizer_settings = bad, .dtype = SY_F32 }, &run), SY_E_USAGE);
    assert_non_null(strstr(sy_error_message(f->ctx), "nesterov"));
}

int main(void)
{
    const struct CMUnitTest tests[] = { folder_test(same_as_torch), folder_test(state_is_what_is_needed) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
